//! `/` and `/help`: lists of the endpoints.

use super::AdminEndpoint;
use super::ENDPOINTS;
use super::Parameter;
use super::ParameterKind;
use crate::Admin;
use crate::request::Request;
use crate::response::AdminResponse;
use crate::response::HTML;

pub(super) fn help(_: &Request, _: &Admin) -> AdminResponse {
    AdminResponse::text(commands())
}

/// All endpoints with their parameters, as text.
pub(super) fn commands() -> String {
    let mut text = "admin commands are:\n".to_owned();
    for endpoint in ENDPOINTS {
        let method = if endpoint.mutates { " (POST)" } else { "" };
        text += &format!("  {}{method}: {}\n", endpoint.path, endpoint.help);
        for parameter in endpoint.parameters {
            text += &format!("      {}: {}", parameter.name, parameter.help);
            if let ParameterKind::OneOf(choices) = parameter.kind {
                text += &format!("; One of ({})", choices.join(", "));
            }
            text += "\n";
        }
    }
    text
}

pub(super) fn home(_: &Request, _: &Admin) -> AdminResponse {
    let rows: String = ENDPOINTS.iter().skip(1).map(row).collect();
    let page = format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<title>Envoy Admin</title>\n\
         <style>body {{ font-family: sans-serif }} td {{ padding: 2px 1em; vertical-align: top }} \
         button {{ min-width: 10em }}</style>\n</head>\n<body>\n\
         <table>\n<thead><tr><th>Command</th><th>Description</th></tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table>\n</body>\n</html>\n"
    );
    AdminResponse::text(page).with_type(HTML)
}

/// An endpoint as a row of the page: a link, or a form if it changes something or has parameters.
fn row(endpoint: &AdminEndpoint) -> String {
    let name = endpoint.path.trim_start_matches('/');
    let help = escape(endpoint.help);
    if endpoint.parameters.is_empty() && !endpoint.mutates {
        return format!("<tr><td><a href='{name}'>{name}</a></td><td>{help}</td></tr>\n");
    }
    let method = if endpoint.mutates { "post" } else { "get" };
    let id = name.replace('/', "-");
    let parameters: String = endpoint
        .parameters
        .iter()
        .map(|parameter| field(parameter, &id))
        .collect();
    format!(
        "<tr><td><form action='{name}' method='{method}' id='{id}'><button>{name}</button></form></td>\
         <td>{help}</td></tr>\n{parameters}"
    )
}

fn field(parameter: &Parameter, form: &str) -> String {
    let Parameter { name, help, kind } = parameter;
    let input = match kind {
        ParameterKind::Flag => format!("<input type='checkbox' name='{name}' form='{form}'>"),
        ParameterKind::Text => format!("<input type='text' name='{name}' form='{form}'>"),
        ParameterKind::OneOf(choices) => {
            let options = choices.iter();
            let options: String = options
                .map(|choice| format!("<option value='{choice}'>{choice}</option>"))
                .collect();
            format!("<select name='{name}' form='{form}'>{options}</select>")
        }
    };
    format!(
        "<tr><td>{input}</td><td>{name}: {}</td></tr>\n",
        escape(help)
    )
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
