//! Each call of each service, made by each kind of caller, over the wire: refused exactly where the table says so.

use hone_controller::identity::access::{Rule, TABLE};
use hone_proto::error::{Reason, Refusal};
use hone_proto::identity::{ClientIdentity, Credentials, Plane, Role};
use hone_tests::reach::Reach;
use tonic::client::Grpc;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::{controller, soon};

/// Makes a call with an empty message. `None` when it went through, whatever it answered.
async fn refused(reach: &Reach, as_whom: &ClientIdentity, path: &'static str) -> Option<Reason> {
    let plane = match path {
        _ if path.starts_with("/hone.v1.Bulk/") => Plane::Bulk,
        _ if path.starts_with("/hone.v1.Enrolment/") => Plane::Enrolment,
        _ => Plane::Control,
    };
    let channel = reach.channel(as_whom.clone(), plane).expect("a channel");
    let mut grpc = Grpc::new(channel);
    let call = async {
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let codec = ProstCodec::<(), ()>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let mut answers = grpc.server_streaming(Request::new(()), path, codec).await?.into_inner();
        answers.message().await
    };
    match soon(path, call).await {
        Ok(_) => None,
        Err(status) => {
            let reason = Refusal::from(&status).reason;
            let at_the_door = [Reason::NotPermitted, Reason::Unauthenticated, Reason::Revoked];
            assert_ne!(reason, Reason::Unavailable, "{path}: {status:?}");
            at_the_door.contains(&reason).then_some(reason)
        }
    }
}

fn showing(credentials: &Credentials) -> ClientIdentity {
    ClientIdentity::new(credentials).expect("an identity")
}

#[tokio::test]
async fn every_call_is_refused_to_everybody_whom_the_table_does_not_name() {
    let controller = controller().await;
    let node = showing(&controller.reach.enrolled_node().await.expect("a node"));
    let mut people = Vec::new();
    for role in Role::ALL {
        let name = format!("a-{role}");
        let person = controller.reach.enrolled_user(&name, role.name()).await.expect("a person");
        people.push((role, showing(&person)));
    }
    for (path, rule) in TABLE {
        if *rule == Rule::Anyone {
            continue;
        }
        let expected = |admitted: bool| (!admitted).then_some(Reason::NotPermitted);
        let nodes = matches!(rule, Rule::Node | Rule::NodeOrUser(_));
        assert_eq!(
            refused(&controller.reach, &node, path).await,
            expected(nodes),
            "{path} by a node"
        );
        for (role, person) in &people {
            let admitted = match rule {
                Rule::Anyone => true,
                Rule::Node => false,
                Rule::User(least) | Rule::NodeOrUser(least) => role >= least,
            };
            let found = refused(&controller.reach, person, path).await;
            assert_eq!(found, expected(admitted), "{path} by a {role}");
        }
    }
}

#[tokio::test]
async fn a_role_that_was_lowered_counts_at_once() {
    let controller = controller().await;
    let bob = showing(&controller.reach.enrolled_user("bob", "operator").await.expect("bob"));
    let path = "/hone.v1.Operator/CreateNodeToken";
    assert_eq!(refused(&controller.reach, &bob, path).await, None);
    controller.reach.invite("bob", "viewer").await.expect("bob is a viewer from now on");
    assert_eq!(refused(&controller.reach, &bob, path).await, Some(Reason::NotPermitted));
}

#[tokio::test]
async fn the_enrolment_port_serves_nothing_else() {
    let controller = controller().await;
    let nobody = controller.reach.identities.nobody().expect("an identity");
    let channel = controller.reach.channel(nobody, Plane::Enrolment).expect("a channel");
    let mut client = hone_proto::wire::operator_client::OperatorClient::new(channel);
    let answer = client.list_jobs(hone_proto::wire::ListJobsRequest::default()).await;
    assert_eq!(super::why(answer).reason, Reason::Unauthenticated);
}
