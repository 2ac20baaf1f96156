//! Dashboard: the page in a real browser: what it shows, by keyboard alone, light and dark, narrow and wide.
//!
//! `LANDFALL_SCREENSHOTS=<folder> cargo test --test dashboard` leaves pictures there.

mod world;

use std::path::Path;

use world::{Browser, CONTOSO, Edge, free_address, letter, until};

const TOKEN: &str = "a-token-of-thirty-two-characters";

#[test]
fn the_page_shows_the_edge_and_is_used_from_the_keyboard() {
    let address = free_address();
    let folder = world::Folder::new();
    std::fs::write(folder.join("token"), TOKEN).expect("our own folder");
    let fabrikam = "[[tenant]]\nid = \"fabrikam\"\ndefault_region = \"NAM\"\nallowed_regions = [\"NAM\"]\n\
                    [[tenant.domain]]\nname = \"fabrikam.com\"\n";
    let gone = free_address();
    let edge = Edge::builder("EUR")
        .directory(&format!("{CONTOSO}\n{fabrikam}"))
        .relay("NAM", gone)
        .with(&format!(
            "[admin]\naddress = \"{address}\"\ntoken_file = \"{}\"",
            folder.join("token").display()
        ))
        .start();
    let mut client = edge.client();
    client.deliver("you@example.org", &["anna@contoso.com"], letter("<b>seen</b>"));
    client.deliver("you@example.org", &["ben@contoso.com"], letter("waits"));
    client.say("MAIL FROM:<you@example.org>");
    assert!(client.say("RCPT TO:<carol@fabrikam.com>").starts_with("451 4.4.62 "));
    until("the relay to be down", || edge.log().contains("destination-down").then_some(()));

    let browser = Browser::start();
    browser.resize(1400, 1000);
    browser.open(&format!("http://{address}/"));
    browser.wait_for("region EUR · running");
    browser.wait_for("relay:NAM");
    assert!(browser.text().contains("down"), "{}", browser.text());

    // From the top of the page to the explain form with nothing but Tab.
    let mut stops = 0;
    while browser.run("return document.activeElement.name + '@' + (document.activeElement.form || {}).id")
        != "rcpt@explain-form"
    {
        browser.keys("\t");
        stops += 1;
        assert!(stops < 60, "the form is not reached");
    }
    // Who exists, and where, needs the token, and so does the trace.
    browser.keys("carol@fabrikam.com\n");
    browser.wait_for("this needs Authorization");
    browser.wait_for("Token");
    browser.run("document.getElementById('token').focus()");
    browser.keys(&format!("{TOKEN}\n"));
    until("the token to be taken", || {
        browser.run("return document.getElementById('token-form').hidden").as_bool().filter(|hidden| *hidden)
    });
    browser.run("document.querySelector('#explain-form [name=rcpt]').focus()");
    browser.keys("\n");
    browser.wait_for("ATTR35");
    assert!(browser.text().contains("451 4.4.62"), "{}", browser.text());
    browser.run("document.querySelector('#trace-form [name=to]').focus()");
    browser.keys("anna@contoso.com\n");
    until("the trace to show her", || {
        browser.run("document.getElementById('trace-form').requestSubmit()");
        let shown = browser.run("return document.getElementById('rows').innerText");
        shown.as_str().is_some_and(|text| text.contains("anna@contoso.com")).then_some(())
    });
    browser.run("document.querySelector('#rows button').focus()");
    browser.keys("\n");
    until("her message's story", || {
        let story = browser.run("return document.getElementById('story').innerText");
        story.as_str().is_some_and(|text| text.contains("delivered")).then_some(())
    });
    browser.run("document.getElementById('residency-form').requestSubmit()");
    until("the report", || {
        let report = browser.run("return document.getElementById('residency-out').innerText");
        report.as_str().is_some_and(|text| text.contains("EUR")).then_some(())
    });

    for (width, scheme) in [(1400, "light"), (1400, "dark"), (500, "light"), (500, "dark")] {
        browser.resize(width, 1000);
        browser.prefer(scheme);
        let fits = browser.run("return document.documentElement.scrollWidth <= window.innerWidth");
        assert_eq!(fits, true, "at {width} pixels nothing sticks out");
        let dark = browser.run("return matchMedia('(prefers-color-scheme: dark)').matches");
        assert_eq!(dark, scheme == "dark");
        if let Some(folder) = std::env::var_os("LANDFALL_SCREENSHOTS") {
            browser.run("window.scrollTo(0, 0)");
            browser.screenshot(&Path::new(&folder).join(format!("{scheme}-{width}")));
        }
    }
    let complaints: Vec<String> =
        browser.complaints().into_iter().filter(|said| !said.contains("401")).collect();
    assert_eq!(complaints, Vec::<String>::new(), "nothing is asked for elsewhere, and no script fails");
}
