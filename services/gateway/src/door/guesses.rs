//! Guesses of a client, which the brake counts.

use oncue_http::address::ClientAddress;
use oncue_http::brake::Brake;

use super::refusal::braked;
use crate::problem::Problem;

/// Brake as it holds for one client.
#[derive(Clone, Copy)]
pub struct Guesses<'b> {
    pub brake: &'b Brake,
    pub client: Option<ClientAddress>,
}

impl Guesses<'_> {
    /// Whether there is a right to one wrong credential.
    pub fn check(self) -> Result<(), Problem> {
        self.brake.check(self.client).map_err(braked)
    }

    /// Takes the right to one in advance.
    pub fn take(self) -> Result<(), Problem> {
        self.brake.take(self.client).map_err(braked)
    }

    /// Gives back what was taken for a credential that was not wrong.
    pub fn give_back(self) {
        self.brake.give_back(self.client);
    }
}
