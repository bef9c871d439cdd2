//! Lossless: doubles in JSON. NaN and infinities, which JSON lacks, are written as text.

use serde::{Deserialize, Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        serializer.serialize_f64(*value)
    } else {
        serializer.collect_str(value)
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Double {
        Number(f64),
        Text(String),
        /// Reports of earlier versions have it in place of such a number.
        Null(()),
    }
    match Double::deserialize(deserializer)? {
        Double::Number(value) => Ok(value),
        Double::Null(()) => Ok(f64::NAN),
        Double::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}
