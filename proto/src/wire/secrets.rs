//! Messages that carry an enrolment token: what is printed of them holds none of it.

use std::fmt;

use super::{EnrolRequest, TokenReply};

/// Stands where a secret would.
const HIDDEN: &str = "[redacted]";

impl fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("token", &HIDDEN)
            .field("signing_request", &self.signing_request)
            .field("kind", &self.kind)
            .field("display_name", &self.display_name)
            .finish()
    }
}

impl fmt::Debug for TokenReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReply")
            .field("token", &HIDDEN)
            .field("expires_wall_ns", &self.expires_wall_ns)
            .field("root_fingerprint", &self.root_fingerprint)
            .field("address", &self.address)
            .field("control_port", &self.control_port)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_printed() {
        let token = "public.very-secret".to_owned();
        let asked = EnrolRequest { token: token.clone(), ..EnrolRequest::default() };
        let reply = TokenReply { token, control_port: 7400, ..TokenReply::default() };
        for text in [format!("{asked:?} {asked:#?}"), format!("{reply:?} {reply:#?}")] {
            assert!(!text.contains("secret"), "{text}");
            assert!(text.contains("[redacted]"), "{text}");
        }
    }
}
