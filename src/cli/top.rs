//! Top: the running daemon live in the terminal: rates, sessions, spool, and the queue by destination.
//!
//! Asks what `landfall status` and `landfall queue summary` ask, once a second. Keys: q quits, p pauses.

use std::path::Path;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Paragraph, Row, Table};
use serde_json::Value;
use tokio::time::Instant;

use super::status::{size, span};
use super::{Cli, MISTAKE, NO, YES, block_on, complain, plain, socket};
use crate::admin::client;

const EVERY: Duration = Duration::from_secs(1);

/// What was seen at one moment.
struct Sight {
    at: Instant,
    status: Value,
    lanes: Vec<Value>,
}

/// What was added each second between two moments.
#[derive(Default)]
struct Rates {
    accepted: f64,
    delivered: f64,
    refused: f64,
}

struct Screen {
    last: Option<Sight>,
    rates: Rates,
    paused: bool,
    /// Why the last look showed nothing.
    trouble: Option<String>,
}

pub(super) fn run(cli: &Cli) -> u8 {
    let socket = match socket(cli) {
        Ok(socket) => socket,
        Err(code) => return code,
    };
    // Who cannot be asked at all is told so before the screen is taken.
    let mut screen = Screen { last: None, rates: Rates::default(), paused: false, trouble: None };
    screen.look(&socket);
    if let Some(trouble) = &screen.trouble {
        complain(trouble);
        return NO;
    }
    let mut terminal = match ratatui::try_init() {
        Ok(terminal) => terminal,
        Err(error) => {
            complain(format_args!("landfall top: no terminal: {error}; landfall status prints once"));
            return MISTAKE;
        }
    };
    let mut next = Instant::now() + EVERY;
    let ended = loop {
        if let Err(error) = terminal.draw(|frame| screen.draw(frame)) {
            break Err(error);
        }
        match event::poll(next.saturating_duration_since(Instant::now())) {
            Ok(true) => match event::read() {
                Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => break Ok(()),
                    // The terminal is raw: nobody else hears this.
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => break Ok(()),
                    KeyCode::Char('p') => screen.paused = !screen.paused,
                    _ => {}
                },
                Ok(_) => {}
                Err(error) => break Err(error),
            },
            Ok(false) => {
                if !screen.paused {
                    screen.look(&socket);
                }
                next = Instant::now() + EVERY;
            }
            Err(error) => break Err(error),
        }
    };
    ratatui::restore();
    match ended {
        Ok(()) => YES,
        Err(error) => {
            eprintln!("landfall top: {error}");
            NO
        }
    }
}

fn ask(socket: &Path, path: &str) -> Result<Value, String> {
    let asked = async { tokio::time::timeout(EVERY * 5, client::get(socket, path)).await };
    let text = block_on(asked).map_err(|_| "the daemon is slow to answer".to_owned())?;
    serde_json::from_str(&text.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

impl Screen {
    fn look(&mut self, socket: &Path) {
        let seen = ask(socket, "/v1/status").and_then(|status| Ok((status, ask(socket, "/v1/queue")?)));
        let (status, queue) = match seen {
            Ok(seen) => seen,
            Err(why) => {
                self.trouble = Some(why);
                return;
            }
        };
        self.trouble = None;
        let mut lanes = queue["lanes"].as_array().cloned().unwrap_or_default();
        lanes.sort_by_key(|lane| std::cmp::Reverse(lane["messages"].as_u64()));
        let sight = Sight { at: Instant::now(), status, lanes };
        if let Some(last) = &self.last {
            self.rates = Rates::between(last, &sight);
        }
        self.last = Some(sight);
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let Some(Sight { status, lanes, .. }) = &self.last else { return };
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(7), Constraint::Min(3), Constraint::Length(1)])
                .areas(frame.area());
        frame.render_widget(Paragraph::new(self.head(status)), head);
        let rows = lanes.iter().map(|lane| {
            let row = Row::new([
                plain(&lane["destination"]),
                plain(&lane["state"]),
                plain(&lane["messages"]),
                plain(&lane["in_flight"]),
                plain(&lane["held"]),
                plain(&lane["last_reply"]),
            ]);
            let down = lane["state"] == "down";
            row.style(Style::new().add_modifier(if down { Modifier::BOLD } else { Modifier::empty() }))
        });
        let widths = [
            Constraint::Max(28),
            Constraint::Length(5),
            Constraint::Length(8),
            Constraint::Length(7),
            Constraint::Length(5),
            Constraint::Fill(1),
        ];
        let names = ["destination", "state", "waiting", "flying", "held", "last reply"];
        let names = Row::new(names).style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_widget(Table::new(rows, widths).header(names), body);
        let state = match (&self.trouble, self.paused) {
            (Some(why), _) => format!("  {why}"),
            (None, true) => "  paused".to_owned(),
            (None, false) => String::new(),
        };
        frame.render_widget(Line::from(format!("q quit  p pause{state}")), foot);
    }

    fn head(&self, status: &Value) -> Text<'_> {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let (queue, spool, rates) = (&status["queue"], &status["spool"], &self.rates);
        let problems = status["problems"].as_array().into_iter().chain(status["warnings"].as_array());
        let worst = problems.flatten().next().map(plain).unwrap_or_default();
        let oldest = queue["oldest_s"].as_u64().map_or("-".to_owned(), span);
        let lines = [
            format!(
                "{} in {}, {}, up {}",
                plain(&status["hostname"]),
                plain(&status["region"]),
                plain(&status["state"]),
                span(number(&status["uptime_s"]))
            ),
            format!(
                "per second   in {:.1}   out {:.1}   refused {:.1}",
                rates.accepted, rates.delivered, rates.refused
            ),
            format!(
                "since start  in {}   out {}   refused {}   sessions {}",
                plain(&status["accepted"]),
                plain(&status["delivered"]),
                plain(&status["refused"]),
                plain(&status["sessions"])
            ),
            format!(
                "queue        {} waiting, oldest {oldest}, {} down",
                plain(&status["queued"]),
                plain(&queue["down"])
            ),
            format!(
                "spool        {}, {} messages, {} on disk",
                plain(&spool["pressure"]),
                plain(&spool["messages"]),
                size(number(&spool["disk_bytes"]))
            ),
            worst,
        ];
        Text::from(lines.into_iter().map(Line::from).collect::<Vec<_>>())
    }
}

impl Rates {
    fn between(earlier: &Sight, later: &Sight) -> Self {
        let seconds = later.at.duration_since(earlier.at).as_secs_f64().max(0.001);
        let each = |key: &str| {
            let (before, after) = (earlier.status[key].as_u64(), later.status[key].as_u64());
            // A daemon that was started anew counts from nothing.
            let added = after.unwrap_or_default().saturating_sub(before.unwrap_or_default());
            f64::from(u32::try_from(added).unwrap_or(u32::MAX)) / seconds
        };
        Self { accepted: each("accepted"), delivered: each("delivered"), refused: each("refused") }
    }
}
