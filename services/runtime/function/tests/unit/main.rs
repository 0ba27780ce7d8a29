mod function;
#[cfg(feature = "testing")]
mod kit;
#[cfg(feature = "testing")]
mod luck;
