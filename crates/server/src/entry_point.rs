//! `/docker-entrypoint.sh` of the image. It does the same as the script of Envoy's image, without a shell.
//!
//! Its arguments are either flags only or a whole command that starts with `envoy`, as manifests use both.

use crate::commands;

/// The name under which the binary is the image's entry point.
const NAME: &str = "docker-entrypoint.sh";

/// The flags to run with. If the binary runs under another name than [`NAME`], these are the arguments unchanged. `level`
/// is the environment variable `loglevel`, which Envoy's image turns into `--log-level`.
pub(crate) fn translate(
    program: &str,
    arguments: &[String],
    level: Option<&str>,
) -> Result<Vec<String>, String> {
    if program.rsplit('/').next() != Some(NAME) {
        return Ok(arguments.to_vec());
    }
    let mut flags = match arguments.split_first() {
        Some((command, flags)) if is_proxy(command) => flags.to_vec(),
        Some((command, _)) if commands::is_command(command) => arguments.to_vec(),
        Some((command, _)) if !command.starts_with('-') => {
            return Err(format!(
                "{command}: this image holds no other program than envoy\n"
            ));
        }
        _ => arguments.to_vec(),
    };
    // Commands take no flags of the proxy.
    let is_command = flags
        .first()
        .is_some_and(|first| commands::is_command(first));
    if let Some(level) = level.filter(|level| !level.is_empty() && !is_command) {
        flags.extend(["--log-level".to_owned(), level.to_owned()]);
    }
    Ok(flags)
}

fn is_proxy(command: &str) -> bool {
    matches!(command.rsplit('/').next(), Some("envoy" | "outrider"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_commands_and_flags() {
        let translate = |program: &str, arguments: &str, level| {
            let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
            translate(program, &arguments, level).map(|flags| flags.join(" "))
        };
        let entry_point = "/docker-entrypoint.sh";
        for (program, arguments, level, flags) in [
            (
                entry_point,
                "envoy -c /etc/envoy/envoy.yaml",
                None,
                Ok("-c /etc/envoy/envoy.yaml"),
            ),
            (entry_point, "/usr/local/bin/envoy -c x", None, Ok("-c x")),
            (
                entry_point,
                "-c x",
                Some("debug"),
                Ok("-c x --log-level debug"),
            ),
            (entry_point, "--version", Some(""), Ok("--version")),
            (
                entry_point,
                "probe --timeout 1s",
                Some("debug"),
                Ok("probe --timeout 1s"),
            ),
            (entry_point, "envoy wait --ready", None, Ok("wait --ready")),
            (
                entry_point,
                "sh -c x",
                None,
                Err("sh: this image holds no other program than envoy\n"),
            ),
            (
                "/usr/local/bin/envoy",
                "envoy -c x",
                Some("debug"),
                Ok("envoy -c x"),
            ),
        ] {
            let translated = translate(program, arguments, level);
            assert_eq!(
                translated.as_deref().map_err(String::as_str),
                flags,
                "{program} {arguments}"
            );
        }
    }
}
