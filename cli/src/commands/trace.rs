use crate::{
    Context,
    args::*,
    error::{Error, Result},
};
pub(crate) async fn trace(_context: &Context, _args: &TraceArgs) -> Result<()> {
    Err(Error::failed("x"))
}
pub(crate) async fn replay(_context: &Context, _args: &ReplayArgs) -> Result<()> {
    Err(Error::failed("x"))
}
