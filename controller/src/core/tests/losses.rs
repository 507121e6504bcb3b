//! Silence: which wait counts, and when the controller suspects itself.

use super::*;

#[test]
fn a_silent_agent_is_waited_for_as_long_as_it_was_told_and_not_as_was_decided_since() {
    let mut world = World::new();
    let first = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    world.acknowledge(&first, &[attempt]);
    world.pass(Duration::from_secs(60));
    assert!(world.fleet.nodes[&first].silent);
    // Another node could hold the job now; the silent agent has never heard of it and goes on for ever.
    let second = world.node("n2");
    for _ in 0..200 {
        world.pass(Duration::from_secs(20));
        world.beat(&second, &[]);
    }
    assert_eq!(world.current(job).map(|(a, _)| a), Some(attempt));
    world.restart();
    world.hello(&second, &[]);
    for _ in 0..200 {
        world.pass(Duration::from_secs(20));
        world.beat(&second, &[]);
    }
    assert_eq!(world.current(job).map(|(a, _)| a), Some(attempt), "also after a restart");
    // It returns, hears of the new wait and acknowledges it; from then on that counts.
    world.hello(&first, &[attempt]);
    world.acknowledge(&first, &[attempt]);
    for _ in 0..95 {
        world.pass(Duration::from_secs(20));
        world.beat(&second, &[]);
    }
    assert!(world.current(job).is_some_and(|(moved, on)| moved > attempt && on == second));
}

#[test]
fn a_wait_that_was_sent_and_never_acknowledged_does_not_shorten_the_one_before() {
    let mut world = World::new();
    let first = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    world.acknowledge(&first, &[attempt]);
    // It is sent at once, and the link breaks with it.
    let second = world.node("n2");
    let waits = world.fleet.jobs[&job].current().map(|a| (a.disconnect_wait, a.longest_wait()));
    assert_eq!(waits, Some((Some(Settings::default().auto_wait), None)));
    for _ in 0..200 {
        world.pass(Duration::from_secs(20));
        world.beat(&second, &[]);
    }
    assert_eq!(world.current(job).map(|(a, _)| a), Some(attempt));
}

/// Passes time in which only these nodes are heard.
fn pass_with(world: &mut World, span: u64, alive: &[NodeId]) {
    for _ in 0..span / 20 {
        world.pass(Duration::from_secs(20));
        for node in alive {
            let held: Vec<_> = world
                .fleet
                .held_by(&world.fleet.nodes[node].record)
                .map(|(j, a)| j.attempt(a.token))
                .collect();
            world.acknowledge(node, &held);
        }
    }
}

#[test]
fn a_second_mass_loss_is_held_as_the_first() {
    let mut world = World::new();
    let nodes: Vec<_> = (1..=6).map(|n| world.node(&format!("n{n}"))).collect();
    pass_with(&mut world, 60, &nodes[3..]);
    assert!(world.fleet.suspects_itself(world.now), "three of six");
    pass_with(&mut world, 3700, &nodes[3..]);
    assert!(!world.fleet.suspects_itself(world.now), "after an hour the loss is believed");
    let job = world.submit("r1");
    let (attempt, on) = world.current(job).expect("it is placed");
    assert!(nodes[3..].contains(&on));
    // One more that falls silent by itself is one loss like any other.
    pass_with(&mut world, 100, &nodes[4..]);
    assert!(!world.fleet.suspects_itself(world.now), "a single one");
    world.hello(&nodes[3], &[attempt]);
    pass_with(&mut world, 60, &[]);
    assert!(world.fleet.suspects_itself(world.now), "all that were left");
    pass_with(&mut world, 45 * 60, &[]);
    assert_eq!(world.current(job).map(|(a, _)| a), Some(attempt), "nothing is moved");
    pass_with(&mut world, 20 * 60, &[]);
    assert!(!world.fleet.suspects_itself(world.now), "and this one is believed in turn");
}

#[test]
fn nodes_that_return_end_the_suspicion() {
    let mut world = World::new();
    let nodes: Vec<_> = (1..=4).map(|n| world.node(&format!("n{n}"))).collect();
    pass_with(&mut world, 60, &[]);
    assert!(world.fleet.suspects_itself(world.now));
    for node in &nodes[..2] {
        world.hello(node, &[]);
    }
    pass_with(&mut world, 20, &nodes[..2]);
    assert!(!world.fleet.suspects_itself(world.now), "two of four are missing");
}

/// The simulation's seed 684: a Hello from a stream that had broken was read after the one of the stream that followed. What
/// had been placed since was taken for lost, its promise for free, and its GPU was given to another job.
#[test]
fn a_hello_that_was_said_before_another_that_is_known_changes_nothing() {
    let mut world = World::new();
    let node = world.node("n1");
    let job = world.submit("r1");
    let (attempt, _) = world.current(job).expect("it is placed");
    let phase = Payload::Phase { attempt, phase: Phase::Staging, detail: String::new() };
    world.report(&node, phase);
    world.sessions += 1;
    let mut late = Hello {
        node: node.clone(),
        session: Session(world.sessions),
        boot: "boot-1".parse().expect("id"),
        said: Some(BootNanos::new(world.now.boot.get() - 1)),
        spool: "spool-n1".parse().expect("id"),
        attempts: vec![],
        highest_generation: Generation::new(0),
        capacity: capacity(),
        inventory: vec![1],
        hostname: "n1".to_owned(),
        version: "test".to_owned(),
    };
    let before = world.fleet.clone();
    let effects = world.tell(Input::Hello(Box::new(late.clone())));
    assert!(matches!(effects.as_slice(), [Effect::Close(_, closed, _)] if *closed == late.session));
    assert_eq!(world.fleet, before);
    // Of another boot nothing is known to be newer.
    late.boot = "boot-2".parse().expect("id");
    world.tell(Input::Hello(Box::new(late)));
    assert!(world.current(job).is_some_and(|(now, _)| now > attempt));
}
