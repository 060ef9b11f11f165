//! The texts of `--help`, `--version` and usage errors, made from the table of flags.

use crate::cli::VERSION;
use crate::cli::flags::FLAGS;
use crate::cli::flags::Flag;
use crate::cli::flags::Set;
use crate::commands;

const WIDTH: usize = 75;

/// `--version`: a line like Envoy's. Tools split its word after `version:` at the slashes (revision, version, state, build
/// type, TLS library).
pub(crate) fn version(program: &str) -> String {
    format!("\n{program}  version: {VERSION}\n\n")
}

/// The program's name and every flag, in brackets.
pub(crate) fn usage(program: &str) -> String {
    let words = FLAGS.iter().map(|flag| match (&flag.set, flag.short) {
        (Set::Help, _) => "[-h]".to_owned(),
        (_, Some(short)) => format!("[-{short}{}]", value_word(flag)),
        (_, None) if flag.repeats() => format!("[--{}{}] ...", flag.long, value_word(flag)),
        (_, None) => format!("[--{}{}]", flag.long, value_word(flag)),
    });
    let indent = (program.len() + 4).min(40);
    let mut text = format!("   {program} ");
    let mut column = text.len();
    for word in words {
        if column + 1 + word.len() > WIDTH {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            column = indent;
        }
        text.push(' ');
        text.push_str(&word);
        column += 1 + word.len();
    }
    text.push('\n');
    text
}

/// `--help`.
pub(crate) fn complete(program: &str) -> String {
    let mut text = format!("\nUSAGE: \n\n{}\n\nWhere: \n\n", usage(program));
    for flag in FLAGS {
        let repeats = if flag.repeats() {
            "  (accepted multiple times)"
        } else {
            ""
        };
        let short = match flag.short {
            Some(short) => format!("-{short}{},  ", value_word(flag)),
            None => String::new(),
        };
        text.push_str(&format!(
            "   {short}--{}{}{repeats}\n",
            flag.long,
            value_word(flag)
        ));
        let about = match flag.no_effect {
            "" => flag.about.to_owned(),
            reason => format!("Without effect here: {reason}."),
        };
        wrap(&about, &mut text);
        text.push('\n');
    }
    text.push_str("   --,  --ignore_rest\n     Ignores everything after it.\n\n");
    text.push_str(&commands::help(program));
    text
}

fn value_word(flag: &Flag) -> &'static str {
    match flag.set {
        Set::Switch(_) | Set::Help | Set::Version => "",
        Set::Number(_) => " <uint32_t>",
        Set::Text(_) => " <string>",
    }
}

/// Appends `about`, indented and wrapped.
pub(crate) fn wrap(about: &str, text: &mut String) {
    let mut column = 0;
    for word in about.split(' ') {
        if column == 0 || column + 1 + word.len() > WIDTH {
            if column > 0 {
                text.push('\n');
            }
            text.push_str("     ");
            column = 5;
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.len();
    }
    text.push('\n');
}
