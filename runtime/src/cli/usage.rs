//! What a command line that makes no sense is told: one sentence, like every other error.
//!
//! Invariants: a sentence names the flag as it is typed and the value as it was given, gives the nearest name where there
//! is one, and ends with what to do; help and versions are no errors and stay as clap prints them.

use super::Cli;
use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory, FromArgMatches};
use std::error::Error as _;
use std::ffi::OsString;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};
use std::ops::RangeInclusive;

/// Parses a whole command line, the program's name first. A value may begin with a minus, so that a negative number is
/// refused as the number it is.
pub fn parse(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Cli, clap::Error> {
    let takes_value = |arg: &clap::Arg| matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let command = Cli::command().mut_subcommands(|command| {
        command.mut_args(|arg| if takes_value(&arg) { arg.allow_negative_numbers(true) } else { arg })
    });
    Cli::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// Parses a whole number of a range; `--flag must be a whole number from A to B` is what the others are told.
pub(super) fn whole<N>(range: RangeInclusive<u64>) -> impl TypedValueParser<Value = N>
where
    N: TryFrom<u64> + Clone + Send + Sync + 'static,
{
    let expected = match (*range.start(), *range.end()) {
        (from, u64::MAX) => format!("a whole number, {from} or more"),
        (from, to) => format!("a whole number from {from} to {to}"),
    };
    let parse = move |text: &str| -> Result<N, String> {
        let value = text.parse().ok().filter(|n| range.contains(n)).and_then(|n: u64| n.try_into().ok());
        value.ok_or_else(|| expected.clone())
    };
    clap::builder::StringValueParser::new().try_map(move |text| parse(&text))
}

/// The error as one sentence without a final full stop; None where it is no error but a request for help or the version.
pub fn sentence(error: &clap::Error) -> Option<String> {
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let flag = || bare(&text(ContextKind::InvalidArg));
    let value = || text(ContextKind::InvalidValue);
    let near = |kind: ContextKind| {
        let first = match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text),
            Some(ContextValue::Strings(texts)) => texts.first(),
            _ => None,
        };
        first.map(|name| format!(" (did you mean \"{name}\"?)")).unwrap_or_default()
    };
    let command = command(error);
    let help = format!("{command} --help");
    Some(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return None;
        }
        ErrorKind::UnknownArgument if flag().starts_with('-') => {
            format!("there is no flag \"{}\"{}: {help} lists them", flag(), near(ContextKind::SuggestedArg))
        }
        ErrorKind::UnknownArgument => format!("found \"{}\", expected a flag: {help} lists them", flag()),
        ErrorKind::InvalidSubcommand => {
            let name = text(ContextKind::InvalidSubcommand);
            let near = near(ContextKind::SuggestedSubcommand);
            format!("there is no command \"{name}\"{near}: tinygpt --help lists them")
        }
        ErrorKind::InvalidValue if value().is_empty() => {
            format!("{} needs a value: give it as in {}", flag(), text(ContextKind::InvalidArg))
        }
        ErrorKind::InvalidValue => {
            let near = near(ContextKind::SuggestedValue);
            format!("{} cannot be \"{}\"{near}: choose {}", flag(), value(), any_of(error.get(ContextKind::ValidValue)))
        }
        ErrorKind::ValueValidation => {
            format!("{} must be {}, and is \"{}\"", flag(), expected(error), value())
        }
        ErrorKind::ArgumentConflict if text(ContextKind::PriorArg) == text(ContextKind::InvalidArg) => {
            format!("{} is given twice: give it once", flag())
        }
        ErrorKind::ArgumentConflict => {
            let other = match error.get(ContextKind::PriorArg) {
                Some(ContextValue::Strings(names)) => {
                    names.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ")
                }
                _ => bare(&text(ContextKind::PriorArg)),
            };
            format!("{} and {other} exclude each other: leave one of them out", flag())
        }
        ErrorKind::MissingRequiredArgument => {
            // Of a group: `<--a <A>|--b>`.
            let missing = text(ContextKind::InvalidArg);
            let missing = missing
                .strip_prefix("<-")
                .and_then(|rest| rest.strip_suffix('>'))
                .map_or_else(|| missing.clone(), |group| format!("-{}", group.replace("|-", " or -")));
            format!("{command} needs {missing}: {help} shows how")
        }
        ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            format!("{} needs more values than were given: {help} shows how", flag())
        }
        ErrorKind::InvalidUtf8 => "a word of the command line is not UTF-8, which only paths may be".to_owned(),
        // What is left cannot come of this command line's definition; clap's own first line says it.
        _ => {
            let rendered = error.to_string();
            let first = rendered.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    })
}

/// `--lr` of `--lr <F>`.
fn bare(arg: &str) -> String {
    arg.split(' ').next().unwrap_or_default().to_owned()
}

/// `tinygpt train`, from the line `Usage: tinygpt train [OPTIONS]`.
fn command(error: &clap::Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let words = usage.split_whitespace().skip_while(|word| *word == "Usage:");
    let words: Vec<&str> = words.take_while(|word| word.starts_with(|c: char| c.is_ascii_alphanumeric())).collect();
    if words.is_empty() { "tinygpt".to_owned() } else { words.join(" ") }
}

/// `a, b or c`.
fn any_of(values: Option<&ContextValue>) -> String {
    let Some(ContextValue::Strings(values)) = values else { return "another value".to_owned() };
    match values.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => values.concat(),
    }
}

/// What a value should have been, by the error of its parser.
fn expected(error: &clap::Error) -> String {
    match error.source() {
        Some(source) if source.is::<ParseFloatError>() => "a number".to_owned(),
        // Every whole number here is unsigned.
        Some(source) if let Some(error) = source.downcast_ref::<ParseIntError>() => match error.kind() {
            IntErrorKind::PosOverflow => format!("a whole number, at most {}", u64::MAX),
            _ => "a whole number, 0 or more".to_owned(),
        },
        Some(source) => source.to_string(),
        None => "something else".to_owned(),
    }
}
