//! When two names mean one route.
//!
//! A tag mostly has no method, and frameworks write parameters in their own
//! ways: `/users/<int:id>` in a tag is `GET /users/{id}` in a span. What decides
//! is the template with every parameter made alike; a method only where both
//! have one.

/// The part of a name that is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// `None` when the source does not tell it.
    pub method: Option<String>,
    pub template: String,
}

impl RouteKey {
    /// Of a name such as `GET /users/{id}`, `/users/:id` or `users#show`.
    pub fn of(name: &str) -> Self {
        let (method, path) = match name.split_once(' ') {
            Some((method, path)) if is_method(method) => (Some(method.to_owned()), path),
            _ => (None, name),
        };
        Self {
            method,
            template: alike(path),
        }
    }

    /// Whether both can be the same route.
    pub fn meets(&self, other: &Self) -> bool {
        self.template == other.template
            && match (&self.method, &other.method) {
                (Some(one), Some(two)) => one == two,
                _ => true,
            }
    }
}

fn is_method(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= 16
        && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
}

/// The template with `{}` for every parameter and without a slash at its end.
fn alike(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    if !trimmed.contains('/') {
        return trimmed.to_owned();
    }
    let mut out = String::with_capacity(trimmed.len());
    for (i, word) in trimmed.split('/').enumerate() {
        if i > 0 {
            out.push('/');
        }
        out.push_str(if is_parameter(word) { "{}" } else { word });
    }
    out
}

fn is_parameter(word: &str) -> bool {
    let enclosed = |open, close| word.starts_with(open) && word.ends_with(close) && word.len() > 1;
    enclosed('{', '}')
        || enclosed('<', '>')
        || enclosed('[', ']')
        || word.starts_with(':') && word.len() > 1
        || word.starts_with('*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_and_missing_methods_meet() {
        let key = RouteKey::of("GET /users/{id}");
        for same in [
            "/users/<int:id>",
            "GET /users/:id/",
            "/users/[id]",
            "/users/{user_id}",
        ] {
            assert!(key.meets(&RouteKey::of(same)), "{same}");
        }
        for other in ["POST /users/{id}", "/users", "/users/{id}/x", "users#show"] {
            assert!(!key.meets(&RouteKey::of(other)), "{other}");
        }
        assert!(RouteKey::of("users#show").meets(&RouteKey::of("GET users#show")));
        assert_eq!(RouteKey::of("/").template, "");
        assert_eq!(RouteKey::of("").template, "");
    }
}
