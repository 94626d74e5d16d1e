//! The page: files that are part of the program.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse};

use crate::{App, Shown};

pub(crate) const STYLE: &str = "/app.css";
pub(crate) const ICON: &str = "/icon.svg";

/// The sentence stands in the page before any script runs, and what the script draws comes with it.
pub(crate) async fn index(State(app): State<Arc<App>>) -> Html<String> {
    let shown = app.shown().await;
    let history = app.source.history().await;
    Html(render(&shown, &history, app.actions))
}

fn render(shown: &Shown, history: &str, actions: bool) -> String {
    // Within a JSON text `<` stands in strings only; as it is it could end the element.
    let data = format!("{{\"status\":{},\"history\":{history}}}", shown.json).replace('<', "\\u003c");
    let problems: String =
        shown.problems.iter().map(|problem| format!("<li>{}</li>", escaped(problem))).collect();
    fill(
        include_str!("../page/index.html"),
        &[
            ("{{state}}", if shown.safe { "safe" } else { "unsafe" }),
            ("{{word}}", if shown.safe { "Safe" } else { "Not safe" }),
            ("{{sentence}}", &escaped(&shown.sentence)),
            ("{{problems}}", &problems),
            ("{{data}}", &data),
            ("{{actions}}", if actions { "yes" } else { "no" }),
        ],
    )
}

pub(crate) async fn style() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("../page/app.css"))
}

pub(crate) async fn script() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("../page/app.js"))
}

pub(crate) async fn icon() -> impl IntoResponse {
    ([(CONTENT_TYPE, "image/svg+xml")], include_str!("../page/icon.svg"))
}

/// What asks for the token.
pub(crate) fn locked(is_wrong: bool) -> Html<String> {
    let said = if is_wrong { "<p class=\"wrong\" role=\"alert\">That is not the token.</p>" } else { "" };
    Html(fill(include_str!("../page/locked.html"), &[("{{said}}", said)]))
}

/// What leads on to the page, without the token in the address.
pub(crate) fn entered() -> Html<&'static str> {
    Html(
        "<!doctype html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0; url=/\"><title>litekeep</title>\n",
    )
}

/// Puts values in their places; none of them is looked at for places again.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() + 500);
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        match values.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                out.push_str(value);
                rest = &rest[name.len()..];
            }
            None => {
                out.push_str("{{");
                rest = &rest[2..];
            }
        }
    }
    out + rest
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_is_text() {
        let shown = Shown {
            sentence: "<b>{{problems}} & 'x'".into(),
            problems: vec!["</ul><script>".into()],
            json: "{\"path\":\"</script>\"}".into(),
            ..Shown::default()
        };
        let page = render(&shown, "[]", false);
        assert!(page.contains("&lt;b&gt;{{problems}} &amp; &#39;x&#39;"), "{page}");
        assert!(page.contains("<li>&lt;/ul&gt;&lt;script&gt;</li>"), "{page}");
        // The policy forbids inline scripts and styles.
        assert!(!page.contains("<style") && !page.contains("style=") && !page.contains("onclick"));
        let scripts: Vec<&str> = page.split("<script ").skip(1).collect();
        assert!(scripts[0].starts_with("defer src="), "{page}");
        assert!(scripts[1].starts_with("type=\"application/json\"") && scripts.len() == 2, "{page}");
        assert!(page.contains(r#"{"status":{"path":"\u003c/script>"},"history":[]}"#), "{page}");
    }
}
