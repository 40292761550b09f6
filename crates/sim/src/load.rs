//! What clients do in a run, and what they must have seen.

use crate::oracle::Violation;
use crate::plan::Plan;
use crate::world::{ClientWork, World};
use everhold_client::{Client, CreateOptions};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub struct Load(Rc<Inner>);
#[derive(Default)]
struct Inner {
    ready: Cell<usize>,
    phase: Cell<u8>,
    ended: Cell<usize>,
    checked: Cell<bool>,
    acked: RefCell<BTreeMap<String, Vec<u8>>>,
    bad: RefCell<Vec<String>>,
    ops: RefCell<BTreeMap<String, u64>>,
    clients: Cell<usize>,
}
fn content(tag: u64, n: usize) -> Vec<u8> {
    (0..n).map(|i| (tag as usize * 31 + i * 7 + i / 251) as u8).collect()
}
impl Load {
    pub fn new(plan: &Plan, world: &mut World) -> Self {
        let inner = Rc::new(Inner::default());
        inner.clients.set(plan.clients);
        for _ in 0..plan.clients {
            let inner = inner.clone();
            let work: ClientWork =
                Rc::new(move |n, starts, client| Box::pin(work(inner.clone(), n, starts, client)));
            world.add_client(plan.deadline, work);
        }
        Load(inner)
    }
    pub fn is_ready(&self) -> bool {
        self.0.ready.get() >= self.0.clients.get()
    }
    pub fn begin(&self) {
        self.0.phase.set(1)
    }
    pub fn end(&self) {
        self.0.phase.set(2)
    }
    pub fn has_ended(&self) -> bool {
        self.0.ended.get() >= self.0.clients.get()
    }
    pub fn check(&self, world: &mut World) {
        let inner = self.0.clone();
        world.add_client(
            Duration::from_secs(20),
            Rc::new(move |_, _, client| Box::pin(check(inner.clone(), client))),
        );
    }
    pub fn has_checked(&self) -> bool {
        self.0.checked.get()
    }
    pub fn verdict(&self) -> Vec<Violation> {
        self.0
            .bad
            .borrow()
            .iter()
            .map(|b| Violation {
                invariant: "invariant_1".into(),
                detail: b.clone(),
                history: vec![],
            })
            .collect()
    }
    pub fn operations(&self) -> BTreeMap<String, u64> {
        self.0.ops.borrow().clone()
    }
}
async fn work(inner: Rc<Inner>, n: usize, starts: u64, client: Arc<Client>) {
    if starts == 1 {
        inner.ready.set(inner.ready.get() + 1);
    }
    while inner.phase.get() == 0 {
        client.env().clock.sleep(Duration::from_millis(50)).await;
    }
    let mut i = 0u64;
    while inner.phase.get() == 1 {
        i += 1;
        let tag = i * 1000 + n as u64 * 100 + starts;
        let size = [100, 3000, 30_000, 150_000, 9000][client.env().entropy.below(5) as usize];
        let name = format!("/f{n}-{starts}-{i}");
        let data = content(tag, size);
        let ok = client.put(&name, data.clone().into(), CreateOptions::default()).await;
        *inner.ops.borrow_mut().entry(format!("put {}", ok.is_ok())).or_default() += 1;
        match ok {
            Ok(_) => {
                inner.acked.borrow_mut().insert(name.clone(), data);
            }
            Err(e) => crate::event!("c{n} put {name}: {e}"),
        }
        if i % 4 == 0 && inner.acked.borrow().contains_key(&name) {
            let r = client.remove(&name).await;
            let ok = r.is_ok();
            *inner.ops.borrow_mut().entry(format!("remove {ok}")).or_default() += 1;
            inner.acked.borrow_mut().remove(&name);
        } else if i % 3 == 0 {
            read(&inner, &client).await;
        }
        client.env().clock.sleep(Duration::from_millis(client.env().entropy.below(400))).await;
    }
    inner.ended.set(inner.ended.get() + 1);
}
async fn read(inner: &Rc<Inner>, client: &Arc<Client>) {
    let all: Vec<(String, Vec<u8>)> =
        inner.acked.borrow().iter().map(|(a, b)| (a.clone(), b.clone())).collect();
    if all.is_empty() {
        return;
    }
    let (name, data) = &all[client.env().entropy.below(all.len() as u64) as usize];
    let r = client.get(name, 64 << 20).await;
    *inner.ops.borrow_mut().entry(format!("get {}", r.is_ok())).or_default() += 1;
    if !inner.acked.borrow().contains_key(name) {
        return;
    }
    match r {
        Ok(b) if b[..] == data[..] => {}
        Ok(_) => inner.bad.borrow_mut().push(format!("{name} differs")),
        Err(e) => crate::event!("get {name}: {e}"),
    }
}
async fn check(inner: Rc<Inner>, client: Arc<Client>) {
    let all: Vec<(String, Vec<u8>)> =
        inner.acked.borrow().iter().map(|(a, b)| (a.clone(), b.clone())).collect();
    for (name, data) in all {
        match client.get(&name, 64 << 20).await {
            Ok(b) if b[..] == data[..] => {}
            Ok(_) => inner.bad.borrow_mut().push(format!("{name} differs")),
            Err(e) => inner.bad.borrow_mut().push(format!("{name} is lost: {e}")),
        }
    }
    inner.checked.set(true);
}
