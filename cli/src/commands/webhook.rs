use crate::{
    Context,
    args::*,
    error::{Error, Result},
};
pub(crate) async fn run(_context: &Context, _args: &SettingsArgs) -> Result<()> {
    Err(Error::failed("x"))
}
