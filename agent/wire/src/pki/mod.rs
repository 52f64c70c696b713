//! Certificate profiles: what each kind of certificate holds. Launcher and hub
//! both sign, so the profiles stand here once.
//!
//! ```text
//! R_ctl ── I_ctl ──┬─ agent/<role>      both EKUs    8785 only
//!   │              ├─ operator/<user>   clientAuth
//!   │              └─ boot/worker       clientAuth   one use, minutes
//!   └─ boot/scheduler                   serverAuth   one use, minutes
//! R_sched ── I_sched ── dask/scheduler  both EKUs    8786
//! R_node ─── I_node ──┬ dask/worker     both EKUs    8788…
//!                     └ dask/client     clientAuth
//! ```
//!
//! Keys are P-256 throughout: the widest support (ring, webpki, OpenSSL, FIPS).
//! Issuing certificates have path length 0 and name constraints, so that their
//! theft never reaches beyond the cluster.

mod profile;
mod read;

pub use profile::{
    Authority, Chain, CrlEntry, PkiError, SignRequest, crl, issuing_from_csr, leaf_from_csr, leaf_with_key, new_csr,
    new_issuing_csr, new_key, new_root,
};
pub use read::{CertificateFacts, facts, facts_of_pem, pem_chain, public_key_hash};

#[cfg(test)]
mod tests;
