use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use outrider_config::api::envoy::config::core::v3::SocketAddress;
use outrider_config::api::envoy::config::core::v3::socket_address::PortSpecifier;
use outrider_stats::StatValue;
use outrider_stats::StatsFilter;
use outrider_stats::Store;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::AcceptedConnection;
use crate::ConnectionHandler;
use crate::NetworkStream;
use crate::WorkerCx;

/// Sends what it knows about its connection, then waits for the client to close it.
struct InfoSender(usize);

impl ConnectionHandler for InfoSender {
    fn serve(
        self: Rc<Self>,
        mut connection: AcceptedConnection,
    ) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let no_delay = match &connection.stream {
                NetworkStream::Tcp(stream) => stream.nodelay().unwrap(),
                NetworkStream::Unix(_) | NetworkStream::Tls(_) | NetworkStream::Internal(_) => {
                    false
                }
            };
            let info = &connection.info;
            let text = format!("{} {} {} {no_delay}", self.0, info.listener, info.local);
            connection.stream.write_all(text.as_bytes()).await.unwrap();
            let _ = connection.stream.read(&mut [0]).await;
        })
    }
}

fn socket_address(address: &str, ipv4_compat: bool) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(0)),
            ipv4_compat,
            ..Default::default()
        })),
    }
}

fn listener(address: core::Address) -> api::Listener {
    api::Listener {
        name: "l".to_owned(),
        address: Some(address),
        filter_chains: vec![api::FilterChain::default()],
        ..Default::default()
    }
}

fn build(listener: &api::Listener) -> Result<Arc<ListenerConfig>, String> {
    ListenerConfig::build(listener, &FieldPath::root().field("l"))
        .map(Arc::new)
        .map_err(|errors| errors.to_string())
}

/// Runs `test` with `workers` accepting workers, all on this thread.
async fn with_listener<F: Future<Output = ()>>(
    listener: api::Listener,
    (workers, limits): (u32, ConnectionLimits),
    test: impl FnOnce(Vec<Address>, Arc<Store>) -> F,
) {
    let store = Store::new();
    let config = build(&listener).unwrap();
    let bound = bind(&config, workers);
    let addresses = bound.iter().map(|bound| bound.address().clone()).collect();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let workers: Vec<_> = (0..workers)
                .map(|index| {
                    let cx = Rc::new(WorkerCx::new(index, &store, 1));
                    let chain = ServingChain::new(Rc::new(InfoSender(index as usize)), None);
                    Listener::new(config.clone(), vec![chain], limits.clone(), &cx)
                })
                .collect();
            let sockets = bound.into_iter().flat_map(|bound| {
                let sockets = bound.into_workers();
                sockets.into_iter().zip(&workers)
            });
            let _acceptors: Vec<_> = sockets
                .map(|(socket, listener)| Acceptor::start(socket, listener.clone()).unwrap())
                .collect();
            test(addresses, store).await;
        })
        .await;
}

/// Binds all addresses and listens on them.
fn bind(config: &ListenerConfig, workers: u32) -> Vec<BoundAddress> {
    let addresses = config.listen_addresses().iter();
    let bind = |address: &Arc<ListenAddress>| {
        let bound = address.bind(&config.name, workers).unwrap();
        bound.listen(&config.name).unwrap();
        bound
    };
    addresses.map(bind).collect()
}

async fn ask(address: &Address) -> (NetworkStream, String) {
    let mut stream = crate::connect(address, &crate::ConnectOptions::default())
        .await
        .unwrap();
    let mut buffer = [0; 200];
    let length = stream.read(&mut buffer).await.unwrap();
    (
        stream,
        String::from_utf8_lossy(&buffer[..length]).into_owned(),
    )
}

/// A counter or gauge below `listener.`. All listeners in these tests share one scope.
fn value(store: &Store, name: &str) -> u64 {
    let snapshot = store.snapshot(&StatsFilter::default());
    let row = snapshot
        .rows()
        .find(|row| row.name().ends_with(name))
        .unwrap();
    match row.value() {
        StatValue::Counter(value) | StatValue::Gauge(value) => value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn refuses_what_is_not_done_and_what_makes_no_sense() {
    let plain = || listener(socket_address("127.0.0.1", false));
    let mut original_dst = plain();
    original_dst.use_original_dst = Some(true);
    let mut balance = plain();
    balance.connection_balance_config = Some(api::listener::ConnectionBalanceConfig {
        balance_type: Some(BalanceType::ExtendBalance(
            core::TypedExtensionConfig::default(),
        )),
    });
    let mut options = plain();
    options.socket_options.push(core::SocketOption {
        level: 99,
        name: 7,
        ..Default::default()
    });
    let mut nowhere = plain();
    nowhere.address = None;
    for (listener, message) in [
        (original_dst, "l.use_original_dst: not supported"),
        (
            balance,
            "l.connection_balance_config.extend_balance: not supported",
        ),
        (
            options,
            "l.socket_options[0].name: not supported: level 99 name 7",
        ),
        (nowhere, "l.address: is required"),
        (
            listener(socket_address("127.0.0.1", true)),
            "l.address.socket_address.ipv4_compat: only '::'",
        ),
    ] {
        let error = build(&listener).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_listener_without_a_name_gets_a_uuid() {
    let name = generated_name();
    let lengths: Vec<usize> = name.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{name}");
    assert_eq!(name.as_bytes()[14], b'4', "{name}");
    assert!(b"89ab".contains(&name.as_bytes()[19]), "{name}");
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut address = socket_address("127.0.0.1", false);
    let port = taken.local_addr().unwrap().port();
    if let Some(core::address::Address::SocketAddress(socket)) = &mut address.address {
        socket.port_specifier = Some(PortSpecifier::PortValue(port.into()));
    }
    let config = build(&listener(address)).unwrap();
    let error = config.listen_addresses()[0]
        .bind(&config.name, 2)
        .unwrap_err();
    let expected = format!("listener 'l': cannot bind '127.0.0.1:{port}': Address already in use");
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn connections_arrive_on_every_address_with_no_delay_and_are_counted() {
    let mut listener = listener(socket_address("127.0.0.1", false));
    listener.additional_addresses.push(api::AdditionalAddress {
        address: Some(socket_address("::", true)),
        ..Default::default()
    });
    with_listener(
        listener,
        (1, ConnectionLimits::default()),
        |addresses, store| async move {
            let (first, text) = ask(&addresses[0]).await;
            assert_eq!(text, format!("0 l {} true", addresses[0]));
            let port = addresses[1].ip().unwrap().port();
            for host in ["127.0.0.1", "[::1]"] {
                let there = Address::from(
                    format!("{host}:{port}")
                        .parse::<std::net::SocketAddr>()
                        .unwrap(),
                );
                assert_eq!(ask(&there).await.1, format!("0 l {there} true"));
            }
            assert_eq!(value(&store, ".worker_0.downstream_cx_total"), 3);
            assert_eq!(value(&store, "_0.downstream_cx_total"), 3);
            drop(first);
            while value(&store, "_0.downstream_cx_active") > 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(value(&store, "_0.downstream_cx_destroy"), 3);
        },
    )
    .await;
}

#[tokio::test]
async fn over_a_limit_and_without_a_chain_connections_are_closed() {
    let limits = ConnectionLimits {
        listener: Some(ConnectionLimit::new(2)),
        global: Some(ConnectionLimit::new(1)),
        ignores_global: false,
        ..ConnectionLimits::default()
    };
    let plain = listener(socket_address("127.0.0.1", false));
    with_listener(plain, (1, limits), |addresses, store| async move {
        let (_held, text) = ask(&addresses[0]).await;
        assert!(!text.is_empty());
        assert_eq!(ask(&addresses[0]).await.1, "");
        assert_eq!(value(&store, "downstream_global_cx_overflow"), 1);
        assert_eq!(value(&store, "downstream_cx_overflow"), 0);
    })
    .await;
    let mut unmatched = listener(socket_address("127.0.0.1", false));
    unmatched.filter_chains[0].filter_chain_match = Some(api::FilterChainMatch {
        destination_port: Some(1),
        ..Default::default()
    });
    with_listener(
        unmatched,
        (1, ConnectionLimits::default()),
        |addresses, store| async move {
            assert_eq!(ask(&addresses[0]).await.1, "");
            assert_eq!(value(&store, "no_filter_chain_match"), 1);
            assert_eq!(value(&store, "_0.downstream_cx_total"), 0);
        },
    )
    .await;
}

#[tokio::test]
async fn exact_balance_gives_each_worker_its_turn() {
    let mut balanced = listener(socket_address("127.0.0.1", false));
    balanced.connection_balance_config = Some(api::listener::ConnectionBalanceConfig {
        balance_type: Some(BalanceType::ExactBalance(
            api::listener::connection_balance_config::ExactBalance {},
        )),
    });
    with_listener(
        balanced,
        (3, ConnectionLimits::default()),
        |addresses, _store| async move {
            let mut held = Vec::new();
            let mut workers = String::new();
            for _ in 0..6 {
                let (stream, text) = ask(&addresses[0]).await;
                held.push(stream);
                workers.push_str(&text[..1]);
            }
            assert_eq!(workers, "012012");
        },
    )
    .await;
}

#[tokio::test]
async fn a_unix_socket_takes_its_mode_and_the_place_of_a_stale_one() {
    let path = std::env::temp_dir().join(format!("outrider-listener-{}.sock", std::process::id()));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let pipe = core::Address {
        address: Some(core::address::Address::Pipe(core::Pipe {
            path: path.to_str().unwrap().to_owned(),
            mode: 0o600,
        })),
    };
    with_listener(
        listener(pipe),
        (2, ConnectionLimits::default()),
        |addresses, _store| async move {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(
                ask(&addresses[0])
                    .await
                    .1
                    .ends_with(&format!("l {} false", path.display()))
            );
            std::fs::remove_file(&path).unwrap();
        },
    )
    .await;
}

#[tokio::test]
async fn dropping_an_acceptor_closes_the_socket_and_keeps_connections() {
    let config = build(&listener(socket_address("127.0.0.1", false))).unwrap();
    let bound = bind(&config, 1).remove(0);
    let address = bound.address().clone();
    let cx = Rc::new(WorkerCx::new(0, &Store::new(), 1));
    let chain = ServingChain::new(Rc::new(InfoSender(0)), None);
    let listener = Listener::new(
        config,
        vec![chain.clone()],
        ConnectionLimits::default(),
        &cx,
    );
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            let acceptor = Acceptor::start(bound.into_workers().remove(0), listener).unwrap();
            let (mut open, _) = ask(&address).await;
            drop(acceptor);
            // Connections in the queue of a socket that closes are reset. Later ones are refused.
            loop {
                match crate::connect(&address, &crate::ConnectOptions::default()).await {
                    Err(crate::ConnectError::Remote(error))
                        if error.kind() == std::io::ErrorKind::ConnectionRefused =>
                    {
                        break;
                    }
                    _ => tokio::task::yield_now().await,
                }
            }
            assert_eq!(chain.connections(), 1);
            open.write_all(b"x").await.unwrap();
            assert_eq!(open.read(&mut [0]).await.unwrap(), 0);
            chain.all_ended().await;
        })
        .await;
}

#[tokio::test]
async fn a_listener_that_takes_over_serves_new_connections_on_the_same_socket() {
    let config = build(&listener(socket_address("127.0.0.1", false))).unwrap();
    let bound = bind(&config, 1).remove(0);
    let address = bound.address().clone();
    let cx = Rc::new(WorkerCx::new(0, &Store::new(), 1));
    let serving = |teller| {
        let chain = ServingChain::new(Rc::new(InfoSender(teller)), None);
        let chains = vec![chain.clone()];
        (
            Listener::new(config.clone(), chains, ConnectionLimits::default(), &cx),
            chain,
        )
    };
    let ((first, old_chain), (second, new_chain)) = (serving(1), serving(2));
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            let acceptor = Acceptor::start(bound.into_workers().remove(0), first).unwrap();
            let (mut open, text) = ask(&address).await;
            assert!(text.starts_with('1'), "{text}");
            acceptor.hand_to(second);
            let (_other, text) = ask(&address).await;
            assert!(text.starts_with('2'), "{text}");
            assert_eq!((old_chain.connections(), new_chain.connections()), (1, 1));
            old_chain.close_all();
            old_chain.all_ended().await;
            assert_eq!(open.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(new_chain.connections(), 1);
        })
        .await;
}
