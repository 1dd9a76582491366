//! The helper that makes up people, places and addresses.

use super::{Failure, Given, Helper, Kind::*, Slot, number::with_digits};
use crate::{draws::Draws, mock::template::program::unknown};
use fake::{
    Fake,
    faker::{
        address::en as address, company::en as company, internet::en as internet, job::en as job,
        lorem::en as lorem, name::en as name, phone_number::en as phone,
    },
};

pub(super) const HELPERS: &[Helper] = &[Helper::new("faker", "name", &[Text], faker)];

type Make = fn(&mut Draws) -> String;

const MAKERS: &[(&str, Make)] = &[
    ("name", |draws| name::Name().fake_with_rng(draws)),
    ("first_name", |draws| name::FirstName().fake_with_rng(draws)),
    ("last_name", |draws| name::LastName().fake_with_rng(draws)),
    // Below example.com, .net and .org, which nobody has.
    ("email", |draws| internet::SafeEmail().fake_with_rng(draws)),
    ("username", |draws| internet::Username().fake_with_rng(draws)),
    ("phone", |draws| phone::PhoneNumber().fake_with_rng(draws)),
    ("company", |draws| company::CompanyName().fake_with_rng(draws)),
    ("job", |draws| job::Title().fake_with_rng(draws)),
    ("city", |draws| address::CityName().fake_with_rng(draws)),
    ("country", |draws| address::CountryName().fake_with_rng(draws)),
    ("country_code", |draws| address::CountryCode().fake_with_rng(draws)),
    ("state", |draws| address::StateName().fake_with_rng(draws)),
    ("street", |draws| address::StreetName().fake_with_rng(draws)),
    ("zip", |draws| address::ZipCode().fake_with_rng(draws)),
    ("ipv4", ipv4),
    ("ipv6", ipv6),
    ("mac", mac),
    ("domain", domain),
    ("url", |draws| format!("https://{}/{}", domain(draws), word(draws))),
    ("user_agent", |draws| internet::UserAgent().fake_with_rng(draws)),
    ("word", word),
    ("words", |draws| lorem::Words(3..6).fake_with_rng::<Vec<String>, _>(draws).join(" ")),
    ("sentence", |draws| lorem::Sentence(5..10).fake_with_rng(draws)),
    ("paragraph", |draws| lorem::Paragraph(3..6).fake_with_rng(draws)),
    ("color", |draws| format!("#{:06x}", draws.between(0, 0xff_ffff))),
    ("credit_card", credit_card),
    ("iban", iban),
];

/// Made up as numbers, with six digits: a tenth of a metre.
const COORDINATES: &[(&str, f64)] = &[("latitude", 90.0), ("longitude", 180.0)];

fn faker<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let wanted = given.text(0)?.into_owned();
    if let Some((_, make)) = MAKERS.iter().find(|(name, _)| *name == wanted) {
        return Ok(make(given.draws()).into());
    }
    if let Some((_, farthest)) = COORDINATES.iter().find(|(name, _)| *name == wanted) {
        let degrees = (given.draws().fraction() * 2.0 - 1.0) * farthest;
        return with_digits(degrees, Some(6));
    }
    let names = MAKERS.iter().map(|(name, _)| *name).chain(COORDINATES.iter().map(|(name, _)| *name));
    Err(unknown("name", &wanted, names).into())
}

fn word(draws: &mut Draws) -> String {
    lorem::Word().fake_with_rng(draws)
}

fn ipv4(draws: &mut Draws) -> String {
    let [one, two, three, four] =
        [(1, 223), (0, 255), (0, 255), (1, 254)].map(|(min, max)| draws.between(min, max));
    format!("{one}.{two}.{three}.{four}")
}

/// Within 2000::/3, where all global addresses are.
fn ipv6(draws: &mut Draws) -> String {
    let bits = u128::from(draws.next_u64()) << 64 | u128::from(draws.next_u64());
    std::net::Ipv6Addr::from(bits >> 3 | 1 << 125).to_string()
}

/// Of one device, and administered locally, so that it is no maker's.
fn mac(draws: &mut Draws) -> String {
    let [first, rest @ .., _, _] = draws.next_u64().to_be_bytes();
    let rest: String = rest.iter().map(|byte| format!(":{byte:02x}")).collect();
    format!("{:02x}{rest}", first & 0xfc | 0x02)
}

fn domain(draws: &mut Draws) -> String {
    let suffix: String = internet::DomainSuffix().fake_with_rng(draws);
    format!("{}-{}.{suffix}", word(draws), word(draws))
}

/// Sixteen digits that begin with 4 and end with the digit that Luhn's check asks for.
fn credit_card(draws: &mut Draws) -> String {
    let mut number = format!("4{:014}", draws.between(0, 99_999_999_999_999));
    let sum: u32 = number
        .bytes()
        .enumerate()
        .map(|(index, digit)| u32::from(digit - b'0') << u32::from(index % 2 == 0))
        .map(|doubled| doubled / 10 + doubled % 10)
        .sum();
    number.push_str(&((10 - sum % 10) % 10).to_string());
    number
}

/// A German one: bank code, account number, and the two digits that check them (ISO 7064, 97-10).
fn iban(draws: &mut Draws) -> String {
    let account = draws.between(0, 999_999_999_999_999_999);
    // "DE00" behind the number, with 13 and 14 for its letters.
    let rest = (account as u128 * 1_000_000 + 131_400) % 97;
    format!("DE{:02}{account:018}", 98 - rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(maker: Make) -> impl Iterator<Item = String> {
        let mut draws = Draws::new(5);
        (0..200).map(move |_| maker(&mut draws))
    }

    #[test]
    fn every_name_makes_something_and_the_same_again_from_the_same_draws() {
        for (name, make) in MAKERS {
            let first: Vec<_> = made(*make).collect();
            assert!(first.iter().all(|text| !text.trim().is_empty()), "{name}");
            assert_eq!(first, made(*make).collect::<Vec<_>>(), "{name}");
        }
    }

    #[test]
    fn check_digits_are_right() {
        for number in made(credit_card) {
            let digits = number.bytes().rev().map(|digit| u32::from(digit - b'0'));
            let sum: u32 = digits
                .enumerate()
                .map(|(index, digit)| if index % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 })
                .sum();
            assert_eq!((number.len(), sum % 10), (16, 0), "{number}");
        }
        for iban in made(iban) {
            let moved = format!("{}1314{}", &iban[4..], &iban[2..4]);
            assert_eq!((iban.len(), moved.parse::<u128>().expect("digits") % 97), (22, 1), "{iban}");
        }
    }

    #[test]
    fn addresses_are_addresses() {
        assert!(made(ipv4).all(|text| text.parse::<std::net::Ipv4Addr>().is_ok()));
        assert!(made(ipv6).all(|text| text.parse::<std::net::Ipv6Addr>().is_ok()));
        assert!(
            made(mac)
                .all(|text| text.len() == 17 && u8::from_str_radix(&text[..2], 16).expect("hex") & 3 == 2)
        );
    }
}
