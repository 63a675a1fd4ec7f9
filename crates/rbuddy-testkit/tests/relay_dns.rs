//! The primary is a name that is pointed to another server: the relay finds it there, and nobody is resynced in full.

use rbuddy_lab::{Binary, Port, Server, ServerOptions, wait_until};
use rbuddy_testkit::{Hosts, Relay, RelayOptions, SOON, skip};
use tokio::net::{TcpListener, TcpStream};

const NAME: &str = "primary.test";

/// Passes everything on to a server, as if it listened there.
async fn stand_in(listen: String, server: String) {
    let listener = TcpListener::bind(&listen).await.unwrap_or_else(|error| panic!("listen on {listen}: {error}"));
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                if let Ok(mut to) = TcpStream::connect(server).await {
                    // Its end is the server's or the relay's, and they say so.
                    drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
                }
            });
        }
    });
}

async fn has_what(replica: &Server, primary: &Server) {
    let same = wait_until("the replica to have what the primary has", SOON, async || {
        let digest = async |server: &Server| server.digest().await.map_err(|error| error.to_string());
        let (found, wanted) = (digest(replica).await?, digest(primary).await?);
        if found == wanted { Ok(()) } else { Err(format!("{found}, the primary {wanted}")) }
    });
    same.await.expect("the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_found_elsewhere_by_its_name_is_gone_on_with() {
    if !Hosts::can_be_mounted() {
        return skip("a hosts file of one process's own needs root");
    }
    let (folder, binary) = (tempfile::tempdir().expect("a folder"), Binary::find().expect("a server binary"));
    let start = async |name: &str| Server::start(&binary, folder.path().join(name), ServerOptions::default()).await.expect("a server");
    let (mut primary, heir, replica) = (start("primary").await, start("heir").await, start("replica").await);
    let follow = async |server: &Server, port: u16| {
        server.command(&["REPLICAOF", "127.0.0.1", &port.to_string()]).await.expect("it obeys");
    };
    follow(&heir, primary.port()).await;
    // Two addresses, one port.
    let port = Port::reserve().expect("a port").number();
    stand_in(format!("127.0.0.1:{port}"), primary.address()).await;
    stand_in(format!("127.0.0.2:{port}"), heir.address()).await;
    let hosts = Hosts::new(folder.path(), NAME, "127.0.0.1");
    let relay = Relay::start_with(format!("{NAME}:{port}"), folder.path(), RelayOptions::default(), Some(hosts)).await;
    let relay_port = relay.address().rsplit(':').next().and_then(|port| port.parse().ok()).expect("it ends in a port");
    follow(&replica, relay_port).await;
    primary.command(&["SET", "before", "the move"]).await.expect("it takes writes");
    has_what(&replica, &primary).await;
    has_what(&heir, &primary).await;

    primary.kill().await.expect("kill the primary");
    heir.command(&["REPLICAOF", "NO", "ONE"]).await.expect("it obeys");
    heir.command(&["SET", "after", "the move"]).await.expect("it takes writes");
    relay.hosts().point(NAME, "127.0.0.2");
    has_what(&replica, &heir).await;
    assert_eq!(heir.full_resyncs().await.expect("info"), 0, "full resyncs of the new primary");
    relay.logged_no_error();
}
