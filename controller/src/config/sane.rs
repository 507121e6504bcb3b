//! Which settings would harm a fleet instead of serving it. Each refusal names the key, what is allowed, and why.

use super::Config;

/// A key, its value, the least that is allowed, and the reason.
type Rule = (&'static str, u64, u64, &'static str);

/// What is wrong with these settings, the first thing of it.
pub(super) fn check(config: &Config) -> Result<(), String> {
    for (key, value, least, why) in rules(config) {
        if value < least {
            return Err(format!("{key} = {value}: it must be at least {least}: {why}"));
        }
    }
    let (lease, beat) = (config.timing.lease_ms, config.timing.heartbeat_ms);
    if lease / 2 < beat {
        return Err(format!(
            "timing.lease_ms = {lease}: it must be at least twice timing.heartbeat_ms, which is {beat}: \
             a node would be taken for lost between two signs of life"
        ));
    }
    let (usual, most) = (config.bounds.token_seconds, config.bounds.token_most_seconds);
    // The default goes along with a lower most; who names both means both.
    if usual > most && usual != super::Bounds::default().token_seconds {
        return Err(format!(
            "bounds.token_seconds = {usual}: it must be at most bounds.token_most_seconds, which is {most}"
        ));
    }
    Ok(())
}

fn rules(config: &Config) -> [Rule; 8] {
    const RENEWAL: &str = "certificates are renewed at two thirds of their life, and a controller that \
                           is being restarted must not cost one";
    let (timing, lives) = (&config.timing, &config.certificates);
    [
        ("timing.lease_ms", timing.lease_ms, 1000, "a link that stumbles would cost every job"),
        ("timing.heartbeat_ms", timing.heartbeat_ms, 50, "agents beat no faster"),
        ("timing.retry_ms", timing.retry_ms, 100, "a job that fails at once would do nothing else"),
        ("timing.tick_ms", timing.tick_ms, 10, "the controller would do nothing else"),
        ("certificates.node_seconds", lives.node_seconds, 600, RENEWAL),
        ("certificates.user_seconds", lives.user_seconds, 600, RENEWAL),
        ("certificates.controller_seconds", lives.controller_seconds, 600, RENEWAL),
        ("store.export_seconds", config.store.export_seconds, 10, "each export is the whole state"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let config: Config = toml::from_str(text).expect("it can be read");
        check(&config).expect_err(text)
    }

    #[test]
    fn settings_that_harm_a_fleet_are_refused_with_their_key_and_what_is_allowed() {
        for (section, key) in [
            ("timing", "lease_ms"),
            ("timing", "heartbeat_ms"),
            ("timing", "retry_ms"),
            ("timing", "tick_ms"),
            ("certificates", "node_seconds"),
            ("certificates", "user_seconds"),
            ("certificates", "controller_seconds"),
            ("store", "export_seconds"),
        ] {
            let why = refused(&format!("[{section}]\n{key} = 0\n"));
            assert!(why.starts_with(&format!("{section}.{key} = 0: ")), "{why}");
            assert!(why.contains("at least"), "{why}");
        }
        let why = refused("[timing]\nlease_ms = 1500\n");
        assert!(why.contains("twice timing.heartbeat_ms, which is 1000"), "{why}");
        let why = refused("[timing]\nheartbeat_ms = 18446744073709551615\n");
        assert!(why.contains("lease_ms"), "{why}");
        let why = refused("[bounds]\ntoken_seconds = 700\ntoken_most_seconds = 600\n");
        assert!(why.contains("at most bounds.token_most_seconds, which is 600"), "{why}");
    }

    #[test]
    fn the_defaults_and_a_lower_most_alone_are_fine() {
        assert_eq!(check(&Config::default()), Ok(()));
        let lower: Config = toml::from_str("[bounds]\ntoken_most_seconds = 600\n").expect("TOML");
        assert_eq!(check(&lower), Ok(()));
    }
}
