//! Where many stories begin, and what is asked of them on the way.

use super::{A, B, RELAY, Scene, address};
use rbuddy_core::control::action::ServerCommand;
use rbuddy_core::control::event::Node;
use rbuddy_core::control::relay::UpstreamState;
use rbuddy_core::control::settings::StandbyMode;
use rbuddy_core::control::status::{Phase, RoleName};
use rbuddy_core::types::{Offset, ReplId};
use std::time::Duration;

/// For what a small world does without a fault.
pub const SOON: Duration = Duration::from_secs(20);
/// For what comes of several.
pub const LONG: Duration = Duration::from_secs(60);

/// A serves behind the relay, and B is its empty standby.
pub fn normal() -> Scene {
    settled(Scene::one_and_one())
}

/// Steps until A, which serves, is behind the relay.
pub fn settled(mut scene: Scene) -> Scene {
    scene
        .until(SOON, "A is moved behind the relay", |scene| is_normal(scene) && scene.replicas[&address(A)].master == Some(address(RELAY)));
    scene
}

/// A and B both serve, behind the relay.
pub fn two_actives() -> Scene {
    all_active(&[A, B])
}

pub fn all_active(ports: &[u16]) -> Scene {
    let mut scene = Scene::with(ports, |scene| {
        scene.policy.standby = StandbyMode::Warm;
        ports.iter().for_each(|port| scene.follow_primary(*port));
    });
    scene.until(SOON, "all serve behind the relay", |scene| {
        scene.active().len() == ports.len()
            && scene.replicas.values().all(|replica| replica.master == Some(address(RELAY)) && replica.link_up)
    });
    scene
}

pub fn offset(bytes: u64) -> Offset {
    Offset::new(bytes).unwrap()
}

/// A replica of the primary was promoted in its place, and the relay goes on with it under the new id.
pub fn rename(scene: &mut Scene) -> ReplId {
    scene.primary = scene.heir();
    scene.view.upstream.state = UpstreamState::Connecting;
    let replid = scene.primary.replid;
    scene.until(SOON, "the relay goes on", |scene| scene.view.live().is_some_and(|live| live.replid() == replid));
    replid
}

pub fn look(scene: &mut Scene, port: u16) {
    let probe = scene.probe(Node::Replica(address(port)));
    scene.send(probe);
}

/// One serves, one is empty, and nothing is to be done.
pub fn is_normal(scene: &Scene) -> bool {
    scene.phase() == Phase::Normal && scene.active().len() == 1 && scene.replicas.values().filter(|s| s.keys == 0).count() == 1
}

pub fn role(scene: &Scene, port: u16) -> RoleName {
    scene.status().replicas.iter().find(|replica| replica.address.port == port).expect("of the group").role
}

/// Who was told to drop all it holds, in that order.
pub fn emptied(scene: &Scene) -> Vec<u16> {
    let is_empty = |command: &&(_, ServerCommand)| matches!(command.1, ServerCommand::Empty { .. });
    scene.commands.iter().filter(is_empty).map(|(replica, _)| replica.port).collect()
}

/// How often the story says so.
pub fn told(scene: &Scene, what: &str) -> usize {
    scene.story.iter().filter(|line| line.contains(what)).count()
}
