use crate::{
    Context,
    args::*,
    error::{Error, Result},
};
pub(crate) async fn backfill(_context: &Context, _args: &RangeArgs) -> Result<()> {
    Err(Error::failed("x"))
}
pub(crate) async fn import(_context: &Context, _args: &RangeArgs) -> Result<()> {
    Err(Error::failed("x"))
}
