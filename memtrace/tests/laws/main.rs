//! Laws of the model that no input may break.

mod books;
mod pages;
mod spans;
