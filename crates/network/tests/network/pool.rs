//! Slots made ahead.

use crate::slots::links;
use crate::world::{OUTSIDE, call, eventually, run, serve};
use forkpoint_network::SlotPool;

#[test]
fn a_pool_refills_and_gives_everything_back() {
    run(|world| async move {
        let hub = world.hub().await;
        let pool = SlotPool::new(hub.clone(), 4);
        eventually("the pool fills", || pool.ready() == 4).await;
        let server = serve(&world.outside, "outside");
        let mut taken = Vec::new();
        for _ in 0..6 {
            let slot = pool.take().await.unwrap();
            assert!(call(&slot.netns, OUTSIDE, server.port).is_some());
            taken.push(slot);
        }
        eventually("the pool fills again", || pool.ready() == 4).await;
        assert_eq!(hub.used().len(), 10);
        drop(pool);
        eventually("what was ready is given back", || hub.used().len() == 6).await;
        for slot in taken {
            hub.free_slot(slot.number).await.unwrap();
        }
        eventually("no link is left", || links(&world).is_empty()).await;
        assert!(hub.used().is_empty());
    });
}

#[test]
fn a_pool_of_none_makes_slots_when_asked() {
    run(|world| async move {
        let hub = world.hub().await;
        let pool = SlotPool::new(hub.clone(), 0);
        assert!(hub.used().is_empty());
        let slot = pool.take().await.unwrap();
        assert_eq!(hub.used(), [slot.number]);
        assert_eq!(pool.ready(), 0);
    });
}

#[test]
fn slots_of_a_pool_are_not_reconciled_away() {
    run(|world| async move {
        let hub = world.hub().await;
        let pool = SlotPool::new(hub.clone(), 3);
        eventually("the pool fills", || pool.ready() == 3).await;
        assert!(hub.reconcile(&[]).await.unwrap().is_empty());
        assert_eq!(links(&world).len(), 3);
    });
}
