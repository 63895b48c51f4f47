//! A real browser: headless Chromium, told what to do by chromedriver over the
//! WebDriver protocol. `scripts/deps` installs both.
#![allow(dead_code, reason = "each test uses its part")]

pub mod recorded;

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// A browser that starts on a busy machine.
const START: Duration = Duration::from_secs(60);

/// How long a page may take to show what is expected.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How an element is called in WebDriver's JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One window. It is closed, and its processes end, when this is dropped.
pub struct Browser {
    client: reqwest::Client,
    session: String,
    driver: Child,
}

/// How the window looks.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            width: 1280,
            height: 900,
            dark: true,
        }
    }
}

impl Browser {
    pub async fn start(window: Window) -> Self {
        snowpit::observe::tls::use_ring();
        // Its own process group: Chromium is many processes.
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver is there; scripts/deps installs it");
        let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = tokio::time::timeout(START, async {
            loop {
                let line = said.next_line().await.unwrap().expect("it says its port");
                if let Some((_, port)) = line.split_once("successfully on port ") {
                    let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
                    if let Ok(port) = digits.parse::<u16>() {
                        break port;
                    }
                }
            }
        });
        let port = port.await.expect("chromedriver starts");
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });

        let mut arguments = vec![
            "--headless=new".to_owned(),
            // Tests run as root in containers, where the sandbox cannot start.
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--force-device-scale-factor=1".to_owned(),
            format!("--window-size={},{}", window.width, window.height),
            // No first-run calls to the maker.
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
        ];
        if window.dark {
            arguments.push("--blink-settings=preferredColorScheme=0".to_owned());
        } else {
            arguments.push("--blink-settings=preferredColorScheme=1".to_owned());
        }
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        }}});
        let client = reqwest::Client::builder().timeout(START).build().unwrap();
        let root = format!("http://127.0.0.1:{port}/session");
        let answer = client.post(&root).json(&capabilities).send();
        let answer: Value = answer.await.unwrap().json().await.unwrap();
        let id = answer["value"]["sessionId"]
            .as_str()
            .unwrap_or_else(|| panic!("no session: {answer}"));
        let browser = Self {
            session: format!("{root}/{id}"),
            client,
            driver,
        };
        let scheme = if window.dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.devtools("Emulation.setEmulatedMedia", media).await;
        // Narrower than a window can be.
        let size = json!({ "width": window.width, "height": window.height,
                           "deviceScaleFactor": 1, "mobile": window.width < 700 });
        browser
            .devtools("Emulation.setDeviceMetricsOverride", size)
            .await;
        let thread_time = json!({ "timeDomain": "threadTicks" });
        browser.devtools("Performance.enable", thread_time).await;
        browser
    }

    /// Processor time that the page's own thread has taken, seconds.
    pub async fn busy(&self) -> f64 {
        let all = self.devtools("Performance.getMetrics", json!({})).await;
        let mut all = all["metrics"].as_array().unwrap().iter();
        let one = all.find(|one| one["name"] == "TaskDuration").unwrap();
        one["value"].as_f64().unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let request = self.client.post(format!("{}/{path}", self.session));
        let answer = request.json(&body).send().await.unwrap();
        let status = answer.status();
        let answer: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{path} {body}: {answer}");
        answer["value"].clone()
    }

    /// A command of the browser's own protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("goog/cdp/execute", body).await
    }

    pub async fn open(&self, url: &str) {
        self.post("url", json!({ "url": url })).await;
    }

    /// What the function with this body returns, in the page.
    pub async fn run(&self, script: &str) -> Value {
        self.run_with(script, json!([])).await
    }

    pub async fn run_with(&self, script: &str, arguments: Value) -> Value {
        let body = json!({ "script": script, "args": arguments });
        self.post("execute/sync", body).await
    }

    /// What the script gives to its callback, the last of `arguments`.
    pub async fn run_async(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.post("execute/async", body).await
    }

    /// The text of the page as a person reads it.
    pub async fn text(&self) -> String {
        let text = self.run("return document.body.innerText").await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the script returns something that is true.
    pub async fn until(&self, what: &str, script: &str) -> Value {
        let began = Instant::now();
        loop {
            let value = self.run(script).await;
            if !matches!(&value, Value::Null | Value::Bool(false))
                && value != json!("")
                && value != json!(0)
            {
                return value;
            }
            if began.elapsed() > PATIENCE {
                let text = self.text().await;
                panic!("{what}: not within {PATIENCE:?} (last {value}); the page says\n{text}");
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until these words are on the page.
    pub async fn until_text(&self, words: &str) {
        let words_json = serde_json::to_string(words).unwrap();
        let script = format!("return document.body.innerText.includes({words_json})");
        self.until(words, &script).await;
    }

    /// Presses keys as a person does.
    pub async fn keys(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                [
                    json!({ "type": "keyDown", "value": key.to_string() }),
                    json!({ "type": "keyUp", "value": key.to_string() }),
                ]
            })
            .collect();
        let body = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.post("actions", body).await;
    }

    /// Clicks the first element of a selector, where a person could.
    pub async fn click(&self, selector: &str) {
        let body = json!({ "using": "css selector", "value": selector });
        let element = self.post("element", body).await;
        let id = element[ELEMENT].as_str().unwrap();
        self.post(&format!("element/{id}/click"), json!({})).await;
    }

    /// Lines of a log since it was last asked for: `browser` or `performance`.
    pub async fn log(&self, kind: &str) -> Vec<Value> {
        let lines = self.post("se/log", json!({ "type": kind })).await;
        lines.as_array().cloned().unwrap_or_default()
    }

    /// Fails when the page complained of anything.
    pub async fn assert_no_complaint(&self) {
        let lines = self.log("browser").await;
        let bad: Vec<&Value> = lines
            .iter()
            .filter(|line| ["SEVERE", "WARNING"].contains(&line["level"].as_str().unwrap_or("")))
            .collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }

    /// Every address that was asked for since the log was last read.
    pub async fn requests(&self) -> Vec<String> {
        let lines = self.log("performance").await;
        lines
            .iter()
            .filter_map(|line| {
                let message: Value = serde_json::from_str(line["message"].as_str()?).ok()?;
                let message = &message["message"];
                (message["method"] == "Network.requestWillBeSent").then(|| {
                    message["params"]["request"]["url"]
                        .as_str()
                        .map(str::to_owned)
                })?
            })
            .collect()
    }

    /// What the window shows, as WebP.
    pub async fn picture(&self) -> Vec<u8> {
        use base64_of_webdriver::decode;
        let parameters = json!({ "format": "webp", "quality": 85 });
        let picture = self.devtools("Page.captureScreenshot", parameters).await;
        decode(picture["data"].as_str().unwrap())
    }

    pub async fn close(mut self) {
        let _ = self.client.delete(&self.session).send().await;
        let _ = self.driver.kill().await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A test that failed: the driver's group is ours alone.
        if let Some(id) = self.driver.id().and_then(|id| i32::try_from(id).ok()) {
            let group = nix::unistd::Pid::from_raw(id);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Base64 as WebDriver sends pictures.
mod base64_of_webdriver {
    pub fn decode(text: &str) -> Vec<u8> {
        let digit = |byte: u8| match byte {
            b'A'..=b'Z' => Some(byte - b'A'),
            b'a'..=b'z' => Some(byte - b'a' + 26),
            b'0'..=b'9' => Some(byte - b'0' + 52),
            b'+' => Some(62),
            b'/' => Some(63),
            _ => None,
        };
        let digits: Vec<u32> = text.bytes().filter_map(digit).map(u32::from).collect();
        let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
        for four in digits.chunks(4) {
            let all = four.iter().fold(0, |all, digit| all << 6 | digit) << (6 * (4 - four.len()));
            let three = all.to_be_bytes();
            bytes.extend_from_slice(&three[1..four.len()]);
        }
        bytes
    }
}
