//! Why a module can't be prepared.

/// Why a module is refused. Each message is for the person who publishes, and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The upload is bigger than [`MODULE_BYTES_MAX`](crate::MODULE_BYTES_MAX).
    #[error(
        "the module has {bytes} bytes; at most {max} can be published: build it in release mode and strip it"
    )]
    TooLarge {
        /// The upload's size in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The module declares more than can be rewritten.
    #[error(
        "the module has {count} {what}; at most {max} can be replicated: build it in release mode, and optimize it for \
         size"
    )]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: u64,
        /// The limit.
        max: u64,
    },
    /// The upload is not a WebAssembly module.
    #[error("this is not a WebAssembly module ({0}): publish the .wasm file that `spacetime build` writes")]
    NotWasm(String),
    /// The upload is source text, as JavaScript and TypeScript modules are.
    #[error(
        "this is text, not a WebAssembly module: JavaScript modules can't be replicated yet, publish one built to \
         WebAssembly (Rust, C#)"
    )]
    JavaScript,
    /// The module lacks what every SpacetimeDB module exports.
    #[error("this WebAssembly is not a SpacetimeDB module: {0}")]
    NoModule(String),
    /// The module is built for another version of the module interface.
    #[error(
        "the module is built for an interface that is not supported ({0}): rebuild it with SpacetimeDB 1.x or 2.x"
    )]
    WrongAbi(String),
    /// The module did not describe itself within the limits.
    #[error("the module failed to describe itself: {0}")]
    Describe(String),
    /// The module's definition can't be read.
    #[error("the module's definition can't be read: {0}")]
    Definition(String),
    /// A name of the module is reserved.
    #[error(
        "the name `{0}` is reserved: `rtdb` and names beginning with `rtdb_` belong to RaftTimeDB, please rename it"
    )]
    HiddenName(String),
    /// A name that the server does not take.
    #[error(
        "the name `{0}` can't be used: a name begins with a letter or `_`, and goes on with letters, digits and `_`"
    )]
    Name(String),
    /// A table that is called like one of SpacetimeDB's own, or is said to be one.
    #[error(
        "the table `{0}` is reserved: names beginning with `st_` belong to SpacetimeDB, please rename it"
    )]
    SystemTable(String),
    /// A lifecycle reducer with parameters.
    #[error(
        "the reducer `{0}` is called by the database itself, which has no arguments for it: remove its parameters"
    )]
    LifecycleParams(String),
    /// A generated column whose place in its row can't be found.
    #[error(
        "column `{column}` of table `{table}` is `auto_inc` but can't be found behind the columns before it: move it to the front"
    )]
    Unwalkable {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A table whose rows can't be told apart.
    #[error(
        "the rows of table `{0}` are too intricate to be put in order: simplify its columns, or give it a primary key with a btree index and no index without one"
    )]
    Unsortable(String),
    /// A generated column whose sequence is out of the ordinary.
    #[error(
        "the sequence of column `{column}` of table `{table}` can't be replicated: its bounds must fit in 64 bits, and hold more than one step"
    )]
    Sequence {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// The module has too many generated columns.
    #[error(
        "the module has {columns} `auto_inc` columns, at most {max} can be replicated: number the others in reducers"
    )]
    TooManySequences {
        /// How many there are.
        columns: usize,
        /// The limit.
        max: usize,
    },
    /// A view whose rows can't be told apart.
    #[error("the rows of view `{0}` are too intricate to be found: simplify the type that it returns")]
    UnwalkableView(String),
    /// The module has views, and a definition of version 9.
    #[error(
        "the module has a view, `{0}`: views can be replicated if the module is built with SpacetimeDB 2.x"
    )]
    OldViews(String),
    /// The module has procedures, and a definition of version 9.
    #[error(
        "the module has a procedure, `{0}`: procedures can be replicated if the module is built with SpacetimeDB 2.x"
    )]
    Procedures(String),
    /// The path of an HTTP route that the server does not take.
    #[error(
        "the path `{0}` of an HTTP route can't be used: it is empty or begins with `/`, and has 1,024 lowercase ASCII letters, \
         digits and `-_~/` at most"
    )]
    RoutePath(String),
    /// The module has submodules.
    #[error("the module has a submodule, `{0}`: submodules can't be replicated yet")]
    Submodules(String),
    /// The module uses a host function that would make replicas differ.
    #[error("the module uses `{0}`, whose result or effect would not be the same on every replica")]
    Import(String),
    /// The module uses a feature of WebAssembly that would make replicas differ.
    #[error(
        "the module uses {0}, with which replicas would not stay the same: build it without that WebAssembly feature"
    )]
    Feature(&'static str),
    /// The prepared module does not work.
    #[error("the module fails as soon as it is called: {0}")]
    Trial(String),
    /// The prepared module could not be put together.
    #[error("the module can't be prepared: {0}")]
    Rewrite(String),
}
