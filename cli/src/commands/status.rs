use crate::{
    Context,
    args::*,
    error::{Error, Result},
};
pub(crate) async fn run(_context: &Context, _args: &StatusArgs) -> Result<()> {
    Err(Error::failed("x"))
}
