//! The lease of the recovery: one invocation at a time recovers events from Gladly.
//!
//! `PutParameter` without `Overwrite` is atomic: of two invocations one creates the lease and the
//! other fails. An expired lease belongs to an invocation that crashed; it is deleted and created
//! again. Two that find the same expired lease may both come to hold one, since the second may
//! delete what the first has just created; then both do the same work, and the documents are still
//! correct (see [`crate::controller::backfill::document`]).

use aws_sdk_ssm::{
    Client,
    operation::{
        delete_parameter::DeleteParameterError, get_parameter::GetParameterError,
        put_parameter::PutParameterError,
    },
    types::ParameterType,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shared::{Clock, error_chain};
use tokio::time::Duration;
use tracing::warn;

use crate::controller::backfill::document::StoreError;

/// The lease.
pub(crate) struct Lease {
    ssm: Client,
    name: String,
    clock: Clock,
}

/// The parameter's document.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    owner: String,
    until: Timestamp,
}

/// A lease that is held.
#[derive(Debug)]
pub(crate) struct HeldLease(String);

impl Lease {
    pub(crate) fn new(ssm: Client, name: String, clock: Clock) -> Self {
        Self { ssm, name, clock }
    }

    /// Takes the lease for this long, unless another invocation holds it.
    pub(crate) async fn acquire(&self, lasts: Duration) -> Result<Option<HeldLease>, StoreError> {
        let owner = format!("{:016x}", fastrand::u64(..));
        let lasts = SignedDuration::try_from(lasts).unwrap_or_default();
        let holder = Holder { owner, until: self.clock.now() + lasts };
        let text = serde_json::to_string(&holder).unwrap_or_default();
        // Retried once after an expired one was deleted, or one was released meanwhile.
        for _ in 0..2 {
            if self.create(&text).await? {
                return Ok(Some(HeldLease(holder.owner)));
            }
            match self.holder().await? {
                // The response to its creation was lost.
                Some(other) if other.owner == holder.owner => {
                    return Ok(Some(HeldLease(other.owner)));
                }
                Some(other) if other.until > self.clock.now() => return Ok(None),
                Some(_) => {
                    warn!(parameter = self.name, "deleting the expired recovery lease");
                    self.delete().await?;
                }
                None => {}
            }
        }
        Ok(None)
    }

    /// Ends the lease, so that the next backfill run gets it. If this fails it expires.
    pub(crate) async fn release(&self, held: HeldLease) {
        let released = async {
            match self.holder().await? {
                Some(holder) if holder.owner == held.0 => self.delete().await,
                _ => Ok(()),
            }
        };
        if let Err(err) = released.await {
            warn!(error = error_chain(&err), "could not release the recovery lease");
        }
    }

    async fn create(&self, text: &str) -> Result<bool, StoreError> {
        let request = self.ssm.put_parameter().name(&self.name).value(text).overwrite(false);
        match Box::pin(request.r#type(ParameterType::String).send()).await {
            Ok(_) => Ok(true),
            Err(err)
                if err
                    .as_service_error()
                    .is_some_and(PutParameterError::is_parameter_already_exists) =>
            {
                Ok(false)
            }
            Err(err) => Err(StoreError::new("create", &self.name, err)),
        }
    }

    /// Its holder, if there is one. A malformed lease counts as expired.
    async fn holder(&self) -> Result<Option<Holder>, StoreError> {
        let request = self.ssm.get_parameter().name(&self.name).with_decryption(true);
        match Box::pin(request.send()).await {
            Ok(answer) => {
                let text = answer.parameter.and_then(|parameter| parameter.value);
                let holder = serde_json::from_str(&text.unwrap_or_default());
                Ok(Some(holder.unwrap_or(Holder { owner: String::new(), until: Timestamp::MIN })))
            }
            Err(err)
                if err
                    .as_service_error()
                    .is_some_and(GetParameterError::is_parameter_not_found) =>
            {
                Ok(None)
            }
            Err(err) => Err(StoreError::new("read", &self.name, err)),
        }
    }

    async fn delete(&self) -> Result<(), StoreError> {
        match Box::pin(self.ssm.delete_parameter().name(&self.name).send()).await {
            Ok(_) => Ok(()),
            Err(err)
                if err
                    .as_service_error()
                    .is_some_and(DeleteParameterError::is_parameter_not_found) =>
            {
                Ok(())
            }
            Err(err) => Err(StoreError::new("delete", &self.name, err)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use shared::ssm_client;
    use testing::aws::{Aws, Fault};

    use super::*;

    const NAME: &str = "/relay/pause-recovery-lease";
    const MINUTE: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn one_holds_the_lease_until_it_releases_it_or_its_end() {
        let (aws, now) = (Aws::default(), Arc::new(AtomicI64::new(1_000)));
        let clock = {
            let now = Arc::clone(&now);
            Clock::new(move || Timestamp::from_second(now.load(Ordering::Relaxed)).unwrap())
        };
        let lease = || Lease::new(ssm_client(&aws.config()), NAME.into(), clock.clone());
        let (first, second) = (lease(), lease());

        let held = first.acquire(MINUTE).await.unwrap().unwrap();
        assert!(second.acquire(MINUTE).await.unwrap().is_none());
        first.release(held).await;
        assert!(!aws.state().parameters.contains_key(NAME));
        let stale = second.acquire(MINUTE).await.unwrap().unwrap();
        now.store(1_059, Ordering::Relaxed);
        assert!(first.acquire(MINUTE).await.unwrap().is_none());
        now.store(1_060, Ordering::Relaxed);
        let held = first.acquire(MINUTE).await.unwrap().unwrap();
        second.release(stale).await;
        assert!(second.acquire(MINUTE).await.unwrap().is_none(), "another's lease is not released");
        first.release(held).await;

        aws.put(NAME, "not a lease");
        let held = first.acquire(MINUTE).await.unwrap().unwrap();
        first.release(held).await;
        // It was created, but the response to that was lost.
        aws.state().ssm_faults = [Some(Fault::Lost)].into();
        assert!(first.acquire(MINUTE).await.unwrap().is_some());
    }
}
