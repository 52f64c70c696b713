//! `herdsman pkg`: what a copied environment would hold.

use herdsman_wire::Code;

use super::cli::PkgVerb;
use super::context::Session;
use crate::ui::Error;

pub(super) async fn run(_session: &Session, _verb: &PkgVerb) -> Result<(), Error> {
    std::future::ready(()).await;
    Err(Error::new(Code::Usage, "not possible yet"))
}
