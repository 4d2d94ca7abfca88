//! Signed requests to a bucket in S3, for which the SDK's own client would be a sixth of the package.

use std::fmt::Write as _;

use aws_config::SdkConfig;
use aws_credential_types::provider::{
    ProvideCredentials as _, SharedCredentialsProvider, error::CredentialsError,
};
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningError,
        SigningSettings, UriPathNormalizationMode, sign,
    },
    sign::v4::{SigningParams, signing_params},
};
use aws_smithy_runtime_api::client::{identity::Identity, orchestrator::HttpRequest};
use aws_smithy_types::body::SdkBody;
use aws_types::service_config::ServiceConfigKey;
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

/// A bucket in one region, with the credentials for it.
pub struct Bucket {
    /// What the URLs of all objects begin with.
    base: String,
    region: String,
    credentials: Option<SharedCredentialsProvider>,
}

/// Why a request could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The settings have none.
    #[error("no AWS credentials")]
    NoCredentials,
    /// They cannot be read.
    #[error("could not read the AWS credentials")]
    Credentials(#[from] CredentialsError),
    /// A parameter of the signature is missing.
    #[error("could not sign a request")]
    Parameters(#[from] signing_params::BuildError),
    /// The request is not one that can be sent.
    #[error("could not sign a request")]
    Signing(#[from] SigningError),
}

impl Bucket {
    /// The bucket of this name, in the region of the SDK's settings, with their credentials and endpoint.
    #[must_use]
    pub fn new(aws: &SdkConfig, name: &str) -> Self {
        let region = aws.region().map(ToString::to_string).unwrap_or_default();
        let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL");
        let key = key.profile("endpoint_url").build().ok();
        let endpoint = aws.service_config().zip(key).and_then(|(all, key)| all.load_config(key));
        let endpoint = endpoint.or_else(|| aws.endpoint_url().map(str::to_owned));
        let [fips, dual_stack] = [aws.use_fips(), aws.use_dual_stack()];
        let host = host(&region, fips == Some(true), dual_stack == Some(true));
        let base = base(name, endpoint.as_deref(), &host);
        Self { base, region, credentials: aws.credentials_provider() }
    }

    /// A request about an object, or about the bucket if the key is empty, signed with the credentials as they
    /// are now and with this time. It shares the body's bytes.
    ///
    /// # Errors
    ///
    /// There are no credentials, or they do not make a signature.
    pub async fn request(
        &self,
        method: &'static str,
        key: &str,
        headers: &[(&'static str, &'static str)],
        body: &Bytes,
        time: Timestamp,
    ) -> Result<HttpRequest, SignError> {
        let provider = self.credentials.as_ref().ok_or(SignError::NoCredentials)?;
        let identity = Identity::from(provider.provide_credentials().await?);
        let mut settings = SigningSettings::default();
        // As S3 differs from every other service: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(time.into())
            .settings(settings)
            .build()?
            .into();
        let mut url = self.base.clone();
        push_encoded(&mut url, key);
        let payload = SignableBody::Precomputed(hex::encode(Sha256::digest(body)));
        let signable = SignableRequest::new(method, &*url, headers.iter().copied(), payload)?;
        let (instructions, _) = sign(signable, &params)?.into_parts();

        let mut request = HttpRequest::new(SdkBody::from(body.clone()));
        // Neither can fail: the URL was parsed when it was signed.
        let _ = request.set_method(method);
        let _ = request.set_uri(url);
        for (name, value) in headers {
            request.headers_mut().insert(*name, *value);
        }
        for (name, value) in instructions.headers() {
            request.headers_mut().insert(name.to_owned(), value.to_owned());
        }
        Ok(request)
    }
}

/// S3's host in a region (<https://docs.aws.amazon.com/general/latest/gr/s3.html>), in the partitions that reach
/// the internet.
fn host(region: &str, fips: bool, dual_stack: bool) -> String {
    let suffix = match region.split('-').next() {
        Some("cn") => "amazonaws.com.cn",
        Some("eusc") => "amazonaws.eu",
        _ => "amazonaws.com",
    };
    let fips = if fips { "-fips" } else { "" };
    let dual_stack = if dual_stack { ".dualstack" } else { "" };
    format!("s3{fips}{dual_stack}.{region}.{suffix}")
}

/// What a bucket's URLs begin with: its name is in the host, unless an endpoint was given or it has dots, which
/// S3's certificate does not cover (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html>).
fn base(bucket: &str, endpoint: Option<&str>, host: &str) -> String {
    match endpoint {
        Some(endpoint) => format!("{}/{bucket}/", endpoint.trim_end_matches('/')),
        None if bucket.contains('.') => format!("https://{host}/{bucket}/"),
        None => format!("https://{bucket}.{host}/"),
    }
}

/// Appends a key as a signature has it: everything is encoded but what RFC 3986 calls unreserved, and slashes.
fn push_encoded(url: &mut String, key: &str) {
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            url.push(byte.into());
        } else {
            // Writing to a string does not fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_reached_at_its_regions_endpoint() {
        for (region, fips, dual_stack, expected) in [
            ("eu-west-1", false, false, "s3.eu-west-1.amazonaws.com"),
            ("us-east-1", true, true, "s3-fips.dualstack.us-east-1.amazonaws.com"),
            ("us-gov-west-1", true, false, "s3-fips.us-gov-west-1.amazonaws.com"),
            ("cn-north-1", false, true, "s3.dualstack.cn-north-1.amazonaws.com.cn"),
            ("eusc-de-east-1", false, false, "s3.eusc-de-east-1.amazonaws.eu"),
        ] {
            assert_eq!(host(region, fips, dual_stack), expected);
        }
        let host = "s3.eu-west-1.amazonaws.com";
        assert_eq!(base("acme", None, host), "https://acme.s3.eu-west-1.amazonaws.com/");
        assert_eq!(base("acme.eu", None, host), "https://s3.eu-west-1.amazonaws.com/acme.eu/");
        assert_eq!(
            base("acme", Some("http://localhost:4566/"), host),
            "http://localhost:4566/acme/"
        );
    }

    #[test]
    fn a_key_is_encoded_as_its_signature_has_it() {
        let mut url = String::new();
        push_encoded(&mut url, "a/organization=acme.gladly.com/date=2026-01-31/0_~-é'.gz");
        assert_eq!(url, "a/organization%3Dacme.gladly.com/date%3D2026-01-31/0_~-%C3%A9%27.gz");
    }
}
