//! Browser: a real, headless Chromium, driven through its own driver (WebDriver, W3C).

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::place::{Folder, free_address, is_listening};
use super::process::Process;
use super::wait::until;

pub struct Browser {
    session: String,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    _driver: Process,
    _profile: Folder,
}

impl Browser {
    pub fn start() -> Self {
        let profile = Folder::new();
        let address = free_address();
        let mut command = Command::new("chromedriver");
        // Its own port option binds to 127.0.0.1 alone.
        let port = address.port();
        command.arg(format!("--port={port}"));
        let driver = Process::start(&mut command, &profile.join("log"));
        let local = format!("127.0.0.1:{port}").parse().expect("an address");
        until("chromedriver to listen", || is_listening(local).then_some(()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // The driver speaks HTTP on loopback; the client wants a provider all the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut browser = Self {
            session: format!("http://127.0.0.1:{port}/session"),
            runtime,
            client,
            _driver: driver,
            _profile: profile,
        };
        let data = format!("--user-data-dir={}", browser._profile.join("profile").display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &data,
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": { "args": arguments, "binary": "/usr/bin/chromium" },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let made = browser.post("", &wanted);
        let id = made["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}"));
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    fn call(&self, request: reqwest::RequestBuilder) -> Value {
        let answer: Value = self.runtime.block_on(async {
            let response = request.send().await.expect("the driver answers");
            response.json().await.expect("WebDriver speaks JSON")
        });
        answer["value"].clone()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.call(self.client.post(format!("{}{path}", self.session)).json(body))
    }

    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// Runs JavaScript in the page and returns what it returns.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What the page shows as text.
    pub fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    pub fn wait_for(&self, part: &str) {
        until(&format!("'{part}' on the page"), || self.text().contains(part).then_some(()));
    }

    /// Presses keys one after the other, wherever the focus is. `\t` and `\n` are their keys.
    pub fn keys(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                let key = match key {
                    '\t' => '\u{e004}',
                    '\n' => '\u{e007}',
                    other => other,
                };
                [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
            })
            .collect();
        let body = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.post("/actions", &body);
    }

    pub fn resize(&self, width: u32, height: u32) {
        self.post("/window/rect", &json!({ "width": width, "height": height }));
    }

    /// `light` or `dark`, as the reader's system would say.
    pub fn prefer(&self, scheme: &str) {
        let feature = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let body = json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": feature } });
        self.post("/goog/cdp/execute", &body);
    }

    /// What the page complained of in its console.
    pub fn complaints(&self) -> Vec<String> {
        let said = self.post("/se/log", &json!({ "type": "browser" }));
        let entries = said.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    pub fn screenshot(&self, file: &Path) {
        let shot = self.call(self.client.get(format!("{}/screenshot", self.session)));
        let encoded = shot.as_str().expect("a picture in base64");
        std::fs::write(file.with_extension("b64"), encoded).expect("a folder for pictures");
        let decode =
            format!("base64 -d < {0}.b64 > {0}.png && rm {0}.b64", file.with_extension("").display());
        assert!(Command::new("sh").args(["-c", &decode]).status().expect("sh runs").success());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser too; killing the driver alone would leave it.
        let _ = self.runtime.block_on(self.client.delete(&self.session).send());
    }
}
