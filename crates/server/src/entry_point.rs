//! `/docker-entrypoint.sh` of the image: what the script of Envoy's image does, without a shell.
//!
//! Manifests give its arguments in several ways: flags only, or a whole command that starts with `envoy`.

/// The name under which the binary is the image's entry point.
const NAME: &str = "docker-entrypoint.sh";

/// The flags to run with. Under any other name these are the arguments as they are; `level` is the environment's
/// `loglevel`, which Envoy's image turns into `--log-level`.
pub(crate) fn translate(
    program: &str,
    arguments: &[String],
    level: Option<&str>,
) -> Result<Vec<String>, String> {
    if program.rsplit('/').next() != Some(NAME) {
        return Ok(arguments.to_vec());
    }
    let mut flags = match arguments.split_first() {
        Some((command, flags)) if command.rsplit('/').next() == Some("envoy") => flags.to_vec(),
        Some((command, _)) if !command.starts_with('-') => {
            return Err(format!(
                "{command}: this image holds no other program than envoy\n"
            ));
        }
        _ => arguments.to_vec(),
    };
    if let Some(level) = level.filter(|level| !level.is_empty()) {
        flags.extend(["--log-level".to_owned(), level.to_owned()]);
    }
    Ok(flags)
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
