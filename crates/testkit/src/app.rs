use std::path::PathBuf;
use std::sync::Arc;

use countersign_core::{Clock, Entropy, KeyRing, LoginTokenSet, OsEntropy, Policy, TokenStore};
use countersign_server::{App, KeyFile, Names};
use countersign_store::memory::MemoryStore;

/// An [`App`] in the making.
#[derive(Debug)]
pub struct AppBuilder {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    store: Option<Arc<dyn TokenStore>>,
    keys: Option<KeyRing>,
    key_file: Option<PathBuf>,
    policy: Policy,
    public_url: String,
}

/// An [`App`] with a store in memory, keys of its own, and the public URL `https://lp.example.org/`. Set the fields of the
/// one that is built for anything else: `App { bearer, ..app(clock).build() }`.
pub fn app(clock: Arc<dyn Clock>) -> AppBuilder {
    AppBuilder {
        clock,
        entropy: Arc::new(OsEntropy),
        store: None,
        keys: None,
        key_file: None,
        policy: Policy::default(),
        public_url: "https://lp.example.org/".to_owned(),
    }
}

impl AppBuilder {
    /// With this store.
    #[must_use]
    pub fn store(self, store: Arc<dyn TokenStore>) -> Self {
        Self { store: Some(store), ..self }
    }

    /// With this source of randomness.
    #[must_use]
    pub fn entropy(self, entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy, ..self }
    }

    /// With these keys.
    #[must_use]
    pub fn keys(self, keys: KeyRing) -> Self {
        Self { keys: Some(keys), ..self }
    }

    /// With a key file at this path, and the keys in it; it is created if missing.
    #[must_use]
    pub fn key_file(self, path: PathBuf) -> Self {
        Self { key_file: Some(path), ..self }
    }

    /// With this policy for tokens.
    #[must_use]
    pub fn policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// With this public URL.
    #[must_use]
    pub fn public_url(self, url: impl Into<String>) -> Self {
        Self { public_url: url.into(), ..self }
    }

    /// The server's state.
    ///
    /// # Panics
    ///
    /// If the key file cannot be used, or the URL is none.
    pub fn build(self) -> App {
        let Self { clock, entropy, store, keys, key_file, policy, public_url } = self;
        let now = clock.now();
        let is_kept = key_file.is_some();
        // Without a file only the change of keys would fail.
        let key_file = KeyFile::new(key_file.unwrap_or_else(|| PathBuf::from("no-key-file")));
        let keys = match keys {
            Some(keys) => keys,
            None if is_kept => key_file.load_or_create(now, &*entropy).expect("a key file").0,
            None => KeyRing::generate(now, &*entropy).expect("keys"),
        };
        let store = store.unwrap_or_else(|| Arc::new(MemoryStore::new(&*clock)));
        let names = Names::new("Launchpad".to_owned(), &public_url.parse().expect("a URL"));
        App::new(LoginTokenSet::new(keys, store, clock, entropy, policy), key_file, names)
    }
}
