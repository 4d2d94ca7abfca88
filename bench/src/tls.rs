//! A private certificate authority, made for each run, and what the functions need to trust it.

use std::{env, error::Error, fs, path::PathBuf, process, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// Where Linux distributions keep the roots they trust.
const SYSTEM_ROOTS: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The server's certificate, and files for the clients that trust it. The files are deleted on drop.
pub(crate) struct Authority {
    pub(crate) server: Arc<ServerConfig>,
    /// The authority's certificate alone, in addition to Node's own.
    pub(crate) alone: PathBuf,
    /// The same after all roots that the machine trusts: as much to read as on Lambda.
    pub(crate) bundle: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let mut params = CertificateParams::new(vec![])?;
        params.distinguished_name.push(DnType::CommonName, "Authority of the benchmark");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate()?;
        let leaf =
            CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)?;

        let file = |name: &str| {
            env::temp_dir().join(format!("gladly-relay-bench-{}-{name}", process::id()))
        };
        let (alone, bundle) = (file("root.pem"), file("roots.pem"));
        let system = SYSTEM_ROOTS.iter().find_map(|path| fs::read_to_string(path).ok());
        let system = system.ok_or("this machine keeps its root certificates somewhere else")?;
        fs::write(&alone, root.pem())?;
        fs::write(&bundle, system + "\n" + &root.pem())?;
        Ok(Self { server: Arc::new(server), alone, bundle })
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        for file in [&self.alone, &self.bundle] {
            let _ = fs::remove_file(file);
        }
    }
}
