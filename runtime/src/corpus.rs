pub fn text() -> &'static str { "x" }
