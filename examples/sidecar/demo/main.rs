//! The sidecar at work: real gRPC over a name with one A record per pod, with pods leaving and joining.
//!
//! `cargo run --release --example sidecar` starts three greeters, a DNS server that knows them, and Outrider with
//! `examples/sidecar/envoy.yaml`, and calls through it over one connection. It ends by itself: exit code 0 when
//! every call went where it should.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a demo talks to who runs it"
)]

mod dns;
mod greeter;
mod proxy;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use crate::dns::Dns;
use crate::greeter::GreeterClient;
use crate::greeter::Pod;
use crate::proxy::Proxy;

type Error = Box<dyn std::error::Error>;

/// The name in `envoy.yaml`.
const NAME: &str = "greeter.demo.svc.cluster.local";
/// How long a change of DNS may take to arrive; the file asks every second.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    // This program is the proxy, too: so the demo needs nothing but itself.
    if let Some(code) = proxy::run_if_asked() {
        return code;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = runtime
        .map_err(Error::from)
        .and_then(|runtime| runtime.block_on(demo()));
    match result {
        Ok(()) => {
            println!(
                "\nVERDICT: passed. Every call was answered, and the calls were spread evenly at each step."
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\nVERDICT: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<(), Error> {
    let address = |pod: u8| Ipv4Addr::new(127, 0, 10, pod);
    let first = Pod::start("pod-1", address(1), 0).await?;
    let port = first.port;
    let second = Pod::start("pod-2", address(2), port).await?;
    let third = Pod::start("pod-3", address(3), port).await?;
    let dns = Dns::start(NAME, &[address(1), address(2), address(3)]).await?;
    println!(
        "three greeters listen on 127.0.10.1, .2 and .3, port {port}; DNS answers on {}",
        dns.address
    );

    let proxy = Proxy::start(port, dns.address).await?;
    println!(
        "Outrider is LIVE, {} ms after it was started\n",
        proxy.started_in.as_millis()
    );
    let mut client = GreeterClient::connect(proxy.listener).await?;

    println!("1. three pods, one client connection");
    check_even(&call(&mut client, 300).await?, &["pod-1", "pod-2", "pod-3"])?;

    println!(
        "\n2. pod-3 leaves: first its DNS record, then, when no call reaches it any more, the pod"
    );
    dns.set(&[address(1), address(2)]);
    until(&mut client, |pods| !pods.contains_key("pod-3")).await?;
    third.stop().await;
    check_even(&call(&mut client, 300).await?, &["pod-1", "pod-2"])?;

    println!("\n3. pod-4 joins");
    let fourth = Pod::start("pod-4", address(4), port).await?;
    dns.set(&[address(1), address(2), address(4)]);
    until(&mut client, |pods| pods.contains_key("pod-4")).await?;
    check_even(&call(&mut client, 300).await?, &["pod-1", "pod-2", "pod-4"])?;

    println!("\n4. what the admin server says");
    for address in [address(1), address(2), address(4)] {
        proxy
            .show(
                "/clusters",
                &format!("greeter::{address}:{port}::rq_total::"),
            )
            .await?;
    }
    for stat in [
        "membership_total",
        "update_success",
        "upstream_cx_total",
        "upstream_rq_total",
        "upstream_rq_200",
    ] {
        proxy
            .show("/stats", &format!("cluster.greeter.{stat}: "))
            .await?;
    }
    proxy
        .show("/stats", "http.egress_greeter.downstream_cx_total: ")
        .await?;

    proxy.stop()?;
    for pod in [first, second, fourth] {
        pod.stop().await;
    }
    Ok(())
}

/// Makes `count` calls, one after the other, and counts who answered. A failed call ends the demo.
async fn call(client: &mut GreeterClient, count: u32) -> Result<BTreeMap<String, u32>, Error> {
    let mut pods = BTreeMap::new();
    for _ in 0..count {
        *pods.entry(client.hello().await?).or_insert(0) += 1;
    }
    Ok(pods)
}

/// Calls until the pods that answer a round of calls are as wanted. No call may fail meanwhile.
async fn until(
    client: &mut GreeterClient,
    wanted: impl Fn(&BTreeMap<String, u32>) -> bool,
) -> Result<(), Error> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if wanted(&call(client, 12).await?) {
            println!(
                "   noticed after {:.1} s, no call failed meanwhile",
                started.elapsed().as_secs_f32()
            );
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the change of DNS did not arrive".into())
}

/// Every pod, and no other, got its share, give or take one in a hundred.
fn check_even(pods: &BTreeMap<String, u32>, expected: &[&str]) -> Result<(), Error> {
    let total: u32 = pods.values().sum();
    let share = total / u32::try_from(expected.len())?;
    for (pod, calls) in pods {
        println!(
            "   {pod}: {calls} calls {}",
            "#".repeat(usize::try_from(calls / 5)?)
        );
    }
    let names: Vec<&str> = pods.keys().map(String::as_str).collect();
    if names != expected {
        return Err(format!("{expected:?} should have answered, {names:?} did").into());
    }
    match pods
        .iter()
        .find(|(_, calls)| calls.abs_diff(share) > total / 100)
    {
        Some((pod, calls)) => {
            Err(format!("{pod} got {calls} calls of {total}, not its share of {share}").into())
        }
        None => Ok(()),
    }
}
