//! `/logging` and `/reopen_logs`.

use super::Parameter;
use super::ParameterKind::OneOf;
use super::ParameterKind::Text;
use crate::Admin;
use crate::request::Request;
use crate::response::AdminResponse;

pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "paths",
        help: "Change multiple logging levels by setting to <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>. If fine grain logging is enabled, use __FILE__ or a glob experision as the logger name. For example, source/common*:warning",
        kind: Text,
    },
    Parameter {
        name: "group",
        help: "Change given logger group to desired level, set to <logger_group_name>:<desired_level>. logger_group_name must be a logger name.",
        kind: Text,
    },
    Parameter {
        name: "level",
        help: "desired logging level, this will change all loggers's level",
        kind: OneOf(&[
            "", "trace", "debug", "info", "warning", "error", "critical", "off",
        ]),
    },
];

const LEVELS: [&str; 7] = [
    "trace", "debug", "info", "warning", "error", "critical", "off",
];

pub(super) fn reopen_logs(_: &Request, admin: &Admin) -> AdminResponse {
    admin.control.reopen_logs();
    AdminResponse::done()
}

pub(super) fn logging(request: &Request, admin: &Admin) -> AdminResponse {
    let changed = change(&request.parameters(), admin);
    let mut loggers = "active loggers:\n".to_owned();
    for (name, level) in admin.control.loggers() {
        loggers += &format!("  {name}: {level}\n");
    }
    loggers += "\n";
    match changed {
        Ok(()) => AdminResponse::text(loggers),
        Err(error) => AdminResponse::error(
            400,
            format!(
                "error: {error}\n\n\
                 usage: /logging?<name>=<level> (change single level)\n\
                 usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
                 usage: /logging?level=<level> (change all levels)\n\
                 usage: /logging?group=<group_name>:<level> (change group of loggers)\n\
                 levels: {} \n{loggers}",
                LEVELS.join(" ")
            ),
        ),
    }
}

/// Applies the one parameter, completely or not at all.
fn change(parameters: &[(String, String)], admin: &Admin) -> Result<(), &'static str> {
    let (name, value) = match parameters {
        [] => return Ok(()),
        [(name, value)] => (name.as_str(), value.as_str()),
        _ => return Err("invalid number of parameters"),
    };
    if value.is_empty() {
        return Ok(());
    }
    match name {
        "level" => {
            let level = known_level(value)?;
            admin.control.set_log_level(None, level);
        }
        "group" => return Err("group parameter requires fine-grain logging to be enabled"),
        "paths" => {
            let changes = value.split(',').map(|change| {
                let (logger, level) = change.split_once(':').unwrap_or((change, ""));
                if logger.is_empty() || level.is_empty() {
                    return Err("empty logger name or empty logger level");
                }
                known_level(level)?;
                known_logger(logger, admin)?;
                Ok((logger, level))
            });
            for (logger, level) in changes.collect::<Result<Vec<_>, _>>()? {
                admin.control.set_log_level(Some(logger), level);
            }
        }
        logger => {
            known_level(value)?;
            known_logger(logger, admin)?;
            admin.control.set_log_level(Some(logger), value);
        }
    }
    Ok(())
}

fn known_level(level: &str) -> Result<&str, &'static str> {
    match LEVELS.contains(&level) {
        true => Ok(level),
        false => Err("unknown logger level"),
    }
}

fn known_logger(logger: &str, admin: &Admin) -> Result<(), &'static str> {
    let mut loggers = admin.control.loggers().into_iter();
    match loggers.any(|(name, _)| name == logger) {
        true => Ok(()),
        false => Err("unknown logger name"),
    }
}
