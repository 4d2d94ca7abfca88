use crate::{
    Context,
    args::*,
    error::{Error, Result},
};
pub(crate) fn run(_context: &Context, _args: &PolicyArgs) -> Result<()> {
    Err(Error::failed("x"))
}
