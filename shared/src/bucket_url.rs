//! Where deliveries are written in S3: a bucket, and a prefix of the keys in it.

use std::{net::Ipv4Addr, str::FromStr};

/// What begins a bucket's URL.
const SCHEME: &str = "s3://";
/// The longest prefix: S3 takes keys of 1,024 bytes, and what the relay appends has 372 at most
/// (`/conversations/organization=`, a host of 253 bytes, `/date=2026-01-31/`, an id of 64 digits,
/// `.ndjson.gz`).
const MAX_PREFIX_BYTES: usize = 650;

/// `s3://bucket` or `s3://bucket/prefix`.
///
/// The bucket's name follows the
/// [rules for general purpose buckets](https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html).
/// The prefix has the characters that S3 calls
/// [safe](https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html) and `=`, without `*`, which is a
/// wildcard in the policy that allows writing there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketUrl {
    text: String,
    bucket_end: usize,
}

impl BucketUrl {
    /// The URL's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a text is meant as the URL of a bucket, valid or not.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// The bucket's name.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.text[SCHEME.len()..self.bucket_end]
    }

    /// What the keys begin with: nothing, or the prefix and a slash.
    #[must_use]
    pub fn key_prefix(&self) -> String {
        match self.text.get(self.bucket_end + 1..) {
            Some(prefix) => format!("{prefix}/"),
            None => String::new(),
        }
    }
}

impl FromStr for BucketUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = text.strip_prefix(SCHEME).ok_or("invalid scheme: expected s3://")?;
        let (bucket, prefix) = match place.split_once('/') {
            Some((bucket, prefix)) => (bucket, Some(prefix)),
            None => (place, None),
        };
        if !is_bucket_name(bucket) {
            return Err(
                "invalid bucket: expected 3 to 63 lower-case letters, digits, dots and hyphens, as S3 names buckets",
            );
        }
        if let Some(prefix) = prefix {
            if prefix.len() > MAX_PREFIX_BYTES {
                return Err("invalid prefix: expected 650 bytes at most, so that keys fit into \
                            S3's 1,024");
            }
            if prefix.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
                return Err("invalid prefix: expected names between single slashes, none of them \
                            . or .., and no slash at the end");
            }
            let is_allowed =
                |byte: u8| byte.is_ascii_alphanumeric() || b"/!-_.'()=".contains(&byte);
            if !prefix.bytes().all(is_allowed) {
                return Err("invalid prefix: expected letters, digits and /!-_.'()=");
            }
        }
        Ok(Self { text: text.to_owned(), bucket_end: SCHEME.len() + bucket.len() })
    }
}

/// S3's rules, with the beginnings and ends that it reserves for access points and other kinds of buckets.
fn is_bucket_name(name: &str) -> bool {
    const STARTS: [&str; 3] = ["xn--", "sthree-", "amzn-s3-demo-"];
    const ENDS: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];
    let is_letter_or_digit = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| is_letter_or_digit(byte) || b".-".contains(byte))
        && [bytes.first(), bytes.last()].into_iter().flatten().all(is_letter_or_digit)
        && !name.contains("..")
        && name.parse::<Ipv4Addr>().is_err()
        && !STARTS.iter().any(|start| name.starts_with(start))
        && !ENDS.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_and_its_prefix_are_named_as_s3_names_them() {
        let longest = "p".repeat(MAX_PREFIX_BYTES);
        for (text, bucket, prefix) in [
            ("s3://acme", "acme", ""),
            ("s3://acme.conversations-2", "acme.conversations-2", ""),
            ("s3://acme/gladly", "acme", "gladly/"),
            ("s3://acme/a/env=prod/x_y.(z)'!", "acme", "a/env=prod/x_y.(z)'!/"),
            (&*format!("s3://acme/{longest}"), "acme", &format!("{longest}/")),
        ] {
            let url = text.parse::<BucketUrl>().unwrap();
            assert_eq!((url.as_str(), url.bucket()), (text, bucket));
            assert_eq!(url.key_prefix(), prefix, "{text}");
            let host = "h".repeat(253);
            let name =
                format!("conversations/organization={host}/date=2026-01-31/{:064}.ndjson.gz", 0);
            assert!(url.key_prefix().len() + name.len() <= 1_024, "{text}");
        }
    }

    #[test]
    fn what_s3_or_the_policy_would_read_otherwise_is_refused() {
        let (long_name, long_prefix) = ("a".repeat(64), "p".repeat(MAX_PREFIX_BYTES + 1));
        for (text, part) in [
            ("https://acme.s3.amazonaws.com", "scheme"),
            ("S3://acme", "scheme"),
            ("s3:acme", "scheme"),
            ("s3://", "bucket"),
            ("s3:///gladly", "bucket"),
            ("s3://ab", "bucket"),
            (&*format!("s3://{long_name}"), "bucket"),
            ("s3://Acme", "bucket"),
            ("s3://acme_x", "bucket"),
            ("s3://-acme", "bucket"),
            ("s3://acme.", "bucket"),
            ("s3://ac..me", "bucket"),
            ("s3://192.168.5.4", "bucket"),
            ("s3://xn--acme", "bucket"),
            ("s3://sthree-acme", "bucket"),
            ("s3://acme-s3alias", "bucket"),
            ("s3://acme--ol-s3", "bucket"),
            ("s3://acme--x-s3", "bucket"),
            ("s3://user@acme", "bucket"),
            ("s3://acme:443", "bucket"),
            ("s3://acmé", "bucket"),
            ("s3://acme?x", "bucket"),
            ("s3://arn:aws:s3:eu-west-1:1:accesspoint/x", "bucket"),
            ("s3://acme/", "prefix"),
            ("s3://acme//gladly", "prefix"),
            ("s3://acme/gladly/", "prefix"),
            ("s3://acme/a//b", "prefix"),
            ("s3://acme/..", "prefix"),
            ("s3://acme/a/../b", "prefix"),
            ("s3://acme/./b", "prefix"),
            ("s3://acme/a*", "prefix"),
            ("s3://acme/a?", "prefix"),
            ("s3://acme/${aws:username}", "prefix"),
            ("s3://acme/a b", "prefix"),
            ("s3://acme/a%2f", "prefix"),
            ("s3://acme/a\u{0}", "prefix"),
            ("s3://acme/a\n", "prefix"),
            ("s3://acme/\u{7f}", "prefix"),
            ("s3://acme/é", "prefix"),
            ("s3://acme/a\\b", "prefix"),
            ("s3://acme/a#b", "prefix"),
            (&*format!("s3://acme/{long_prefix}"), "prefix"),
        ] {
            let reason = text.parse::<BucketUrl>().unwrap_err();
            assert!(reason.starts_with(&format!("invalid {part}")), "{text}: {reason}");
        }
    }
}
