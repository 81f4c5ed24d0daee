//! Label sets: names, prompts and templates, and the embeddings that stand for them.

/// One label: a name, and the sentences that describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// What is shown.
    pub name: String,
    /// What fills the templates; never empty.
    pub prompts: Vec<String>,
    /// Sentences with one `{}` each; never empty. `{}` alone takes a prompt as a whole sentence.
    pub templates: Vec<String>,
}
