use crate::{
    Context,
    args::*,
    error::{Error, Result},
};
pub(crate) async fn pause(_context: &Context, _args: &PauseArgs) -> Result<()> {
    Err(Error::failed("x"))
}
pub(crate) async fn resume(_context: &Context) -> Result<()> {
    Err(Error::failed("x"))
}
