//! The programs in README.md compile: the build script makes a module of each.

include!(concat!(env!("OUT_DIR"), "/readme.rs"));

#[test]
fn the_readme_shows_a_function() {
    assert_ne!(
        BLOCKS, 0,
        "README.md has no ```rust block: the newcomer needs to see a function"
    );
}
