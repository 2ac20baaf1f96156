//! The promises of Wire and of TLS, over memory and over loopback.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::{
    ClientTls, Dial, Error, Identity, Network, Roots, ServerTls, Stream, Target, Trust, Wire, bind, listen,
    self_signed, within,
};
use crate::mail::TlsFacts;

const PATIENCE: Duration = Duration::from_secs(10);

/// An authority of the tests' own.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, "Test authority");
        let pem = parameters.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(parameters, key) }
    }

    fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).expect("valid names");
        change(&mut parameters);
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).expect("a pair")
    }

    fn roots(&self) -> Roots {
        Roots::none().and_pem(self.pem.as_bytes()).expect("a root")
    }
}

fn stranger(name: &str) -> Identity {
    let (certificate, key) = self_signed(name).expect("a certificate");
    Identity::from_pem(certificate.as_bytes(), key.as_bytes()).expect("a pair")
}

type Side = Result<(Wire, TlsFacts), Error>;

/// One handshake over memory: what the server and the client make of it.
async fn handshake(server: &ServerTls, client: &ClientTls, trust: Trust<'_>, name: &str) -> (Side, Side) {
    let (ours, theirs) = duplex(4096);
    tokio::join!(
        Wire::new(ours).accept_tls(server, PATIENCE),
        Wire::new(theirs).connect_tls(client, trust, name, PATIENCE),
    )
}

fn nobody() -> ClientTls {
    ClientTls::new(Roots::none(), None).expect("settings")
}

#[tokio::test]
async fn a_wire_reads_and_writes_across_its_buffers() {
    let (ours, mut theirs) = duplex(64);
    let mut wire = Wire::new(ours);
    theirs.write_all(b"EHLO a\r\nNOOP\r\n").await.expect("room");
    assert_eq!(wire.fill().await.expect("open"), 14);
    assert_eq!(wire.pending(), b"EHLO a\r\nNOOP\r\n");
    wire.consume(12);
    assert_eq!(wire.discard_pending(), 2);

    // Much more than the pipe holds, in small and large parts: order and bytes are kept.
    let large = Bytes::from((0..60_000u32).map(|n| b'a' + (n % 26) as u8).collect::<Vec<_>>());
    let mut expected = Vec::new();
    for part in [&b"one "[..], &large, b" two ", &large, &large, b" three"] {
        if part.len() > 100 {
            wire.put_bytes(large.clone())
        } else {
            wire.put(part)
        }
        expected.extend_from_slice(part);
    }
    assert_eq!(wire.queued(), expected.len());
    let mut received = vec![0; expected.len()];
    let (flushed, read) = tokio::join!(wire.flush(), theirs.read_exact(&mut received));
    flushed.expect("open");
    read.expect("all of it");
    assert_eq!(received, expected);
    assert_eq!(wire.queued(), 0);

    drop(theirs);
    assert_eq!(wire.fill().await.expect("an end in good order"), 0);
}

#[tokio::test]
async fn a_silent_wire_holds_no_buffers() {
    let (ours, mut theirs) = duplex(200_000);
    let mut wire = Wire::new(ours);
    theirs.write_all(&[b'x'; 100_000]).await.expect("room");
    while wire.pending().len() < 100_000 {
        wire.fill().await.expect("open");
    }
    wire.consume(100_000);
    let waiting = tokio::time::timeout(Duration::from_millis(1), wire.fill()).await;
    assert!(waiting.is_err(), "nothing comes");
    assert_eq!(wire.buffered_capacity(), 0);
}

#[tokio::test]
async fn unread_input_has_a_bound() {
    let (ours, mut theirs) = duplex(300_000);
    theirs.write_all(&[b'x'; 300_000]).await.expect("room");
    let mut wire = Wire::new(ours);
    let error = loop {
        if let Err(error) = wire.fill().await {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::QuotaExceeded);
    assert!(wire.pending().len() < 200_000);
}

#[tokio::test]
async fn two_that_both_wait_to_be_heard_do_not_wait_for_ever() {
    let (one, other) = duplex(16);
    let (mut one, mut other) = (Wire::new(one), Wire::new(other));
    one.put(&[b'a'; 5_000]);
    other.put(&[b'b'; 5_000]);
    async fn say_then_hear(wire: &mut Wire) -> std::io::Result<()> {
        wire.flush().await?;
        while wire.pending().len() < 5_000 {
            wire.fill().await?;
        }
        Ok(())
    }
    let both = async { tokio::try_join!(say_then_hear(&mut one), say_then_hear(&mut other)) };
    within(PATIENCE, both).await.expect("each takes what the other says");
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let (ours, _theirs) = duplex(64);
    let mut wire = Wire::new(ours);
    let error = within(PATIENCE, wire.fill()).await.expect_err("nobody speaks");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let tls = ServerTls::new(&[stranger("mx.example")], Roots::none()).expect("settings");
    let (ours, _theirs) = duplex(64);
    let error = Wire::new(ours).accept_tls(&tls, PATIENCE).await.expect_err("nobody speaks");
    assert!(matches!(error, Error::TimedOut), "{error}");
}

#[tokio::test]
async fn the_certificate_follows_the_name_that_is_asked_for() {
    let authority = Authority::new();
    let identities = [
        authority.issue(&["mx.example.net"], |_| {}),
        authority.issue(&["*.eur.example.net"], |_| {}),
        authority.issue(&["mx.nam.example.net", "other.example.org"], |_| {}),
    ];
    let server = ServerTls::new(&identities, Roots::none()).expect("settings");
    let client = ClientTls::new(authority.roots(), None).expect("settings");
    for (name, proven) in [
        ("mx.example.net", true),
        ("edge1.eur.example.net", true),
        ("a.b.eur.example.net", false),
        ("eur.example.net", false),
        ("OTHER.example.org", true),
        ("unknown.example.org", false),
    ] {
        let (_, connected) = handshake(&server, &client, Trust::Named, name).await;
        assert_eq!(connected.is_ok(), proven, "{name}");
    }
    // Without a name that fits, the first answers.
    let (_, connected) = handshake(&server, &client, Trust::Anyone, "unknown.example.org").await;
    let (wire, facts) = connected.expect("anyone will do");
    assert!(wire.is_encrypted());
    assert_eq!((facts.version.as_str(), facts.cipher.starts_with("TLS_")), ("TLSv1.3", true));
}

#[tokio::test]
async fn certificates_are_replaced_without_a_restart() {
    let authority = Authority::new();
    let server = ServerTls::new(&[stranger("mx.example.net")], Roots::none()).expect("settings");
    let client = ClientTls::new(authority.roots(), None).expect("settings");
    let (_, before) = handshake(&server, &client, Trust::Named, "mx.example.net").await;
    assert!(before.is_err(), "nobody vouches for it");
    let proper = authority.issue(&["mx.example.net"], |_| {});
    server.replace(&[proper], Roots::none()).expect("settings");
    let (_, after) = handshake(&server, &client, Trust::Named, "mx.example.net").await;
    after.expect("vouched for");
}

#[tokio::test]
async fn who_must_be_verified_is() {
    let authority = Authority::new();
    let expired = authority.issue(&["mx.example.net"], |parameters| {
        parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let client = ClientTls::new(authority.roots(), None).expect("settings");
    for (identity, name, proven) in [
        (authority.issue(&["mx.example.net"], |_| {}), "mx.example.net", true),
        (authority.issue(&["127.0.0.1"], |_| {}), "127.0.0.1", true),
        (authority.issue(&["mx.example.net"], |_| {}), "127.0.0.1", false),
        (authority.issue(&["other.example.net"], |_| {}), "mx.example.net", false),
        (stranger("mx.example.net"), "mx.example.net", false),
        (expired, "mx.example.net", false),
    ] {
        let server = ServerTls::new(&[identity], Roots::none()).expect("settings");
        let (_, named) = handshake(&server, &client, Trust::Named, name).await;
        assert_eq!(named.is_ok(), proven, "{name}");
        if let Err(error) = named {
            assert!(matches!(error, Error::Tls(_)), "{error}");
        }
        let (_, anyone) = handshake(&server, &client, Trust::Anyone, name).await;
        anyone.expect("any certificate will do");
    }
}

#[tokio::test]
async fn a_client_certificate_that_holds_gives_its_names() {
    let authority = Authority::new();
    let server = ServerTls::new(&[stranger("mx.example")], authority.roots()).expect("settings");
    let both = authority.issue(&["edge.nam.example.net", "*.NAM.example.net"], |parameters| {
        parameters.distinguished_name.push(DnType::CommonName, "Edge.Example.net");
    });
    // Public authorities issue certificates for servers only; among mail servers they count.
    let serving = authority.issue(&["edge.nam.example.net"], |parameters| {
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let names = ["edge.example.net", "edge.nam.example.net", "*.nam.example.net"];
    for (identity, expected) in [(both, &names[..]), (serving, &names[1..2])] {
        let client = ClientTls::new(Roots::none(), Some(&identity)).expect("settings");
        // The second time the session is resumed; the certificate is judged all the same.
        for _ in 0..2 {
            let (accepted, connected) = handshake(&server, &client, Trust::Anyone, "mx.example").await;
            let (mut wire, facts) = accepted.expect("a handshake");
            assert_eq!(facts.verified_names, expected);
            assert_eq!(facts.rejected_certificate, None);
            // The ticket for the next time comes with the first words.
            let (mut client_wire, _) = connected.expect("a handshake");
            wire.put(b"250 ok\r\n");
            wire.flush().await.expect("open");
            assert_eq!(client_wire.fill().await.expect("open"), 8);
        }
    }
}

#[tokio::test]
async fn a_client_certificate_that_does_not_hold_counts_for_nothing() {
    let authority = Authority::new();
    let expired = authority.issue(&["edge.example.net"], |parameters| {
        parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let signing = authority.issue(&["edge.example.net"], |parameters| {
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    });
    let trusting = ServerTls::new(&[stranger("mx.example")], authority.roots()).expect("settings");
    let trusting_nobody = ServerTls::new(&[stranger("mx.example")], Roots::none()).expect("settings");
    let good = authority.issue(&["edge.example.net"], |_| {});
    for (server, identity) in [
        (&trusting, Some(stranger("edge.example.net"))),
        (&trusting, Some(expired)),
        (&trusting, Some(signing)),
        (&trusting_nobody, Some(good)),
        (&trusting, None),
    ] {
        let client = ClientTls::new(Roots::none(), identity.as_ref()).expect("settings");
        let (accepted, connected) = handshake(server, &client, Trust::Anyone, "mx.example").await;
        connected.expect("a handshake");
        let (_, facts) = accepted.expect("the session goes on");
        assert!(facts.verified_names.is_empty());
        assert_eq!(facts.rejected_certificate.is_some(), identity.is_some(), "{facts:?}");
    }
}

#[tokio::test]
async fn tls_needs_a_pair_that_belongs_together() {
    let (certificate, _) = self_signed("one.example").expect("a certificate");
    let (_, key) = self_signed("two.example").expect("a certificate");
    for (certificate, key) in [
        (certificate.as_bytes(), key.as_bytes()),
        (certificate.as_bytes(), b"no key".as_slice()),
        (b"no certificate".as_slice(), key.as_bytes()),
    ] {
        let error = Identity::from_pem(certificate, key).expect_err("no pair");
        assert!(matches!(error, Error::Certificate(_)), "{error}");
    }
    assert!(ServerTls::new(&[], Roots::none()).is_err(), "a server needs a certificate");
    assert_eq!(stranger("MX.example").names(), ["mx.example"]);
}

#[tokio::test]
async fn what_is_no_tls_ends_the_handshake() {
    let (ours, mut theirs) = duplex(4096);
    theirs.write_all(b"220 this is not TLS, this is plain text\r\n").await.expect("room");
    let error = Wire::new(ours)
        .connect_tls(&nobody(), Trust::Anyone, "mx.example", PATIENCE)
        .await
        .expect_err("not TLS");
    assert!(matches!(error, Error::Tls(_)), "{error}");
}

#[tokio::test]
async fn bytes_sent_before_tls_are_not_believed_after_it() {
    let server = Arc::new(ServerTls::new(&[stranger("mx.example")], Roots::none()).expect("settings"));
    let (ours, theirs) = duplex(4096);
    let (mut ours, mut theirs) = (Wire::new(ours), Wire::new(theirs));
    theirs.put(b"STARTTLS\r\nMAIL FROM:<injected@example.net>\r\n");
    theirs.flush().await.expect("room");
    ours.fill().await.expect("open");
    ours.consume(b"STARTTLS\r\n".len());
    assert!(!ours.pending().is_empty());
    let client = nobody();
    let (accepted, connected) = tokio::join!(
        ours.accept_tls(&server, PATIENCE),
        theirs.connect_tls(&client, Trust::Anyone, "mx.example", PATIENCE),
    );
    assert_eq!(accepted.expect("a handshake").0.pending(), b"");
    connected.expect("a handshake");
}

#[tokio::test]
async fn ipv6_and_ipv4_listen_side_by_side() {
    let any_v4 = bind("0.0.0.0:0".parse().expect("an address")).expect("a port");
    let any_v4 = listen(any_v4).expect("a socket that can be waited for");
    let port = any_v4.local_addr().expect("bound").port();
    let any_v6 = bind(format!("[::]:{port}").parse().expect("an address"));
    match any_v6 {
        Ok(any_v6) => assert_eq!(any_v6.local_addr().expect("bound").port(), port),
        // A machine without IPv6 cannot show it.
        Err(error) => assert!(
            matches!(error.raw_os_error(), Some(97 | 99)),
            "the port is shared with IPv4, or there is no IPv6: {error}"
        ),
    }
    let taken = bind(format!("0.0.0.0:{port}").parse().expect("an address"));
    assert!(taken.is_err(), "two listeners never share a port");
    let target = Target::Tcp(format!("127.0.0.1:{port}").parse().expect("an address"));
    let dialed = Network.dial(&target, PATIENCE);
    let (dialed, accepted) = tokio::join!(dialed, any_v4.accept());
    let mut ours = Wire::new(dialed.expect("a listener"));
    let mut theirs = Wire::new(Stream::from(accepted.expect("a caller").0));
    ours.put(b"hello");
    ours.close().await.expect("open");
    assert_eq!(theirs.fill().await.expect("open"), 5);
    assert_eq!(theirs.fill().await.expect("closed in good order"), 0);
}
