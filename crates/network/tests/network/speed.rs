//! How long a slot takes, and that it is really ready then.
#![allow(clippy::print_stderr)]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::world::{inside, run};

fn percentiles(name: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    eprintln!("{name}: p50 {:?} p90 {:?} p99 {:?} max {:?}", at(50), at(90), at(99), at(100));
    at(50)
}

#[test]
fn a_slot_is_made_within_milliseconds_and_answers_the_first_packet() {
    run(|world| async move {
        let begin = Instant::now();
        let hub = world.hub().await;
        eprintln!("open: {:?}", begin.elapsed());
        let begin = Instant::now();
        drop(world.hub().await);
        eprintln!("open again: {:?}", begin.elapsed());
        let (mut made, mut answered, mut freed) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..200 {
            let begin = Instant::now();
            let slot = hub.make_slot().await.unwrap();
            made.push(begin.elapsed());
            let listener = inside(&slot.netns, || TcpListener::bind("0.0.0.0:80").unwrap());
            let begin = Instant::now();
            TcpStream::connect_timeout(&SocketAddr::from((slot.outer, 80)), Duration::from_secs(5)).unwrap();
            answered.push(begin.elapsed());
            drop(listener);
            let begin = Instant::now();
            hub.free_slot(slot.number).await.unwrap();
            freed.push(begin.elapsed());
        }
        let made = percentiles("make", made);
        let slowest = *answered.iter().max().unwrap();
        percentiles("connect", answered);
        percentiles("free", freed);
        // Ample, for machines that do other things as well; a process start per slot would not fit.
        assert!(made < Duration::from_millis(25), "{made:?}");
        // A lost first packet is repeated after a second.
        assert!(slowest < Duration::from_millis(900), "{slowest:?}");
    });
}

#[test]
fn many_slots_made_at_once_answer_the_first_packet() {
    run(|world| async move {
        let hub = world.hub().await;
        let begin = Instant::now();
        let makers: Vec<_> = (0..100)
            .map(|_| {
                let hub = hub.clone();
                tokio::spawn(async move {
                    let slot = hub.make_slot().await.unwrap();
                    let listener = inside(&slot.netns, || TcpListener::bind("0.0.0.0:80").unwrap());
                    let begin = Instant::now();
                    let to = SocketAddr::from((slot.outer, 80));
                    TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
                    drop(listener);
                    (slot, begin.elapsed())
                })
            })
            .collect();
        let mut answered = Vec::new();
        let mut slots = Vec::new();
        for maker in makers {
            let (slot, time) = maker.await.unwrap();
            answered.push(time);
            slots.push(slot);
        }
        eprintln!("100 slots at once: {:?}", begin.elapsed());
        let slowest = *answered.iter().max().unwrap();
        percentiles("connect", answered);
        assert!(slowest < Duration::from_millis(900), "{slowest:?}");
    });
}
