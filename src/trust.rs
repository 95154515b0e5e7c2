//! Trust: from a bundle and what the operator trusts to a manifest that may be served.

mod base64;
pub mod bundle;
pub mod dsse;
pub mod key;
mod pem;

pub use base64::Base64Error;
pub use bundle::Bundle;
pub use bundle::BundleError;
pub use bundle::Method;
pub use key::Curve;
pub use key::PublicKey;
pub use pem::PemError;
