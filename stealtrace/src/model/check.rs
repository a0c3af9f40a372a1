//! One fact about the host.

/// What doctor looked at.
pub(crate) struct Check {
    /// What it is.
    pub(crate) item: String,
    /// Is it as it should be? None: neither good nor bad.
    pub(crate) good: Option<bool>,
    /// What was found.
    pub(crate) found: String,
}

impl Check {
    /// Neither good nor bad.
    pub(crate) fn fact(item: &str, found: impl Into<String>) -> Self {
        Self { item: item.to_owned(), good: None, found: found.into() }
    }

    /// Good, or why not.
    pub(crate) fn of(item: &str, result: Result<String, String>) -> Self {
        let good = Some(result.is_ok());
        Self { item: item.to_owned(), good, found: result.unwrap_or_else(|reason| reason) }
    }
}
