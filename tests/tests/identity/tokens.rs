//! A token lets one in, once; whoever presents it again, or one that is no good, learns nothing.

use hone_proto::enrol::EnrolError;
use hone_proto::error::Reason;
use hone_proto::identity::Credentials;
use hone_proto::wire::EnrolKind;

use super::controller;

/// The controller's reason; `None` when it was let in, or failed before the controller could refuse.
pub(crate) fn reason(refused: Result<Credentials, EnrolError>) -> Option<Reason> {
    match refused {
        Err(EnrolError::Refused(refusal)) => Some(refusal.reason),
        _ => None,
    }
}

#[tokio::test]
async fn a_token_that_was_spent_lets_nobody_in() {
    let controller = controller().await;
    let token = controller.reach.node_token(0).await.expect("a token");
    controller.reach.enrol(&token, EnrolKind::Node).await.expect("the first one is let in");
    for _ in 0..2 {
        let replayed = controller.reach.enrol(&token, EnrolKind::Node).await;
        assert_eq!(reason(replayed), Some(Reason::TokenRefused), "the token worked again");
    }
}

#[tokio::test]
async fn a_token_is_refused_alike_whatever_is_wrong_with_it() {
    let controller = controller().await;
    let token = controller.reach.node_token(0).await.expect("a token");
    let (id, secret) = token.split_once('.').expect("two parts");
    let other = controller.reach.node_token(0).await.expect("a token");
    let (_, other_secret) = other.split_once('.').expect("two parts");
    let zero = "0".repeat(16);
    let mut messages = std::collections::BTreeSet::new();
    for (what, token, kind) in [
        ("of another kind", token.clone(), EnrolKind::User),
        ("of another token's secret", format!("{id}.{other_secret}"), EnrolKind::Node),
        ("unknown", format!("{zero}.{secret}"), EnrolKind::Node),
        ("no token", "let me in".to_owned(), EnrolKind::Node),
    ] {
        match controller.reach.enrol(&token, kind).await {
            Err(EnrolError::Refused(refusal)) => {
                assert_eq!(refusal.reason, Reason::TokenRefused, "{what}");
                messages.insert(refusal.message);
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(messages.len(), 1, "the answers tell what was wrong: {messages:?}");
    controller
        .reach
        .enrol(&token, EnrolKind::Node)
        .await
        .expect("the token was not spent by others");
}
