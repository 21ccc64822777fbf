//! The codec of the generated services: what a request may hold is counted before anything is allocated for it.
//!
//! Two bytes can stand for an empty message that takes some hundred in memory, so the size of a request on the wire does
//! not bound what decoding it takes; the number of items in its repeated fields does.

use std::{collections::HashMap, marker::PhantomData, sync::LazyLock};

use bytes::Buf;
use prost::{
    DecodeError, Message, Name,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// How many messages, or operations, one request may hold.
pub const ITEMS_MAX: usize = 1_024;
/// How many attributes its messages may hold together: 32 each.
pub const ATTRIBUTES_MAX: usize = 32 * ITEMS_MAX;

/// How many attributes the message of a request may have that holds one. What is above 32 is refused later, and in more words.
pub const ATTRIBUTES_OF_ONE_MAX: usize = 1_024;

/// How often each repeated field of a request may repeat, in the whole request. A field that is not named here may not. What
/// stands under the name of a request counts there, before what stands under that of the message.
const REPEATED_MAX: [(&str, usize); 5] = [
    (".veribus.v1.PublishRequest/.veribus.v1.Message.attributes", ATTRIBUTES_OF_ONE_MAX),
    (".veribus.v1.PublishStreamRequest.messages", ITEMS_MAX),
    (".veribus.v1.SessionRequest.operations", ITEMS_MAX),
    (".veribus.v1.Message.attributes", ATTRIBUTES_MAX),
    (".veribus.v1.Subscription.patterns", ITEMS_MAX),
];

/// Requests by their full names, with a leading dot, as the descriptors say them.
static REQUESTS: LazyLock<HashMap<String, Shape>> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut types = HashMap::new();
    for file in &files.file {
        file.message_type.iter().for_each(|message| collect(&format!(".{}", file.package()), message, &mut types));
    }
    let methods = files.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
    methods.map(|method| method.input_type()).map(|name| (name.to_owned(), Shape::of(name, name, &types))).collect()
});

fn collect<'a>(outer: &str, message: &'a DescriptorProto, types: &mut HashMap<String, &'a DescriptorProto>) {
    let name = format!("{outer}.{}", message.name());
    message.nested_type.iter().for_each(|nested| collect(&name, nested, types));
    types.insert(name, message);
}

/// The fields of a message that have to be looked into.
#[derive(Debug, Default)]
struct Shape(Vec<(u32, Field)>);

#[derive(Debug)]
struct Field {
    /// If it repeats: its full name, and how often it may.
    repeated: Option<(String, usize)>,
    /// If it is a message that has such fields itself.
    message: Option<Shape>,
}

impl Shape {
    /// No request holds a message of its own kind.
    fn of(request: &str, name: &str, types: &HashMap<String, &DescriptorProto>) -> Self {
        let Some(message) = types.get(name) else { return Self::default() };
        let fields = message.field.iter().filter_map(|field| {
            let path = format!("{name}.{}", field.name());
            let named = |path: &str| REPEATED_MAX.iter().find(|(repeated, _)| *repeated == path);
            let max = || named(&format!("{request}/{path}")).or_else(|| named(&path)).map_or(0, |(_, max)| *max);
            let repeated = (field.label() == Label::Repeated).then(|| (path.clone(), max()));
            let inner = (field.r#type() == Type::Message).then(|| Self::of(request, field.type_name(), types));
            let message = inner.filter(|shape| !shape.0.is_empty());
            let number = u32::try_from(field.number()).ok()?;
            (repeated.is_some() || message.is_some()).then_some((number, Field { repeated, message }))
        });
        Self(fields.collect())
    }

    /// Counts what a message holds; `false` where a field repeats too often. What is no valid message is left to the decoder.
    fn fits<'s>(&'s self, mut bytes: &[u8], counts: &mut HashMap<&'s str, usize>) -> Result<bool, DecodeError> {
        while bytes.has_remaining() {
            let (number, wire_type) = decode_key(&mut bytes)?;
            let Some((_, field)) = self.0.iter().find(|(known, _)| *known == number) else {
                skip_field(wire_type, number, &mut bytes, DecodeContext::default())?;
                continue;
            };
            if let Some((name, max)) = &field.repeated {
                let count = counts.entry(name).or_default();
                *count += 1;
                if *count > *max {
                    return Ok(false);
                }
            }
            match &field.message {
                Some(shape) if wire_type == WireType::LengthDelimited => {
                    let length = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
                    // Longer than what there is: the decoder says so.
                    let Some((inner, rest)) = bytes.split_at_checked(length) else { return Ok(true) };
                    if !shape.fits(inner, counts)? {
                        return Ok(false);
                    }
                    bytes = rest;
                }
                _ => skip_field(wire_type, number, &mut bytes, DecodeContext::default())?,
            }
        }
        Ok(true)
    }
}

/// `tonic`'s codec for `prost`, whose decoder refuses a request that holds too many items: `RESOURCE_EXHAUSTED`.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + 'static, U: Message + Default + Name + 'static> Codec for BoundedCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ExactEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ExactEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder { shape: REQUESTS.get(&format!(".{}", U::full_name())), decoded: PhantomData }
    }
}

/// Reserves what an item takes before it encodes it: a buffer that grows by doubling is up to twice as large as what it
/// holds, for as long as that waits to be sent.
#[derive(Debug)]
pub struct ExactEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for ExactEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Decodes what was counted first. What is not a request is decoded as it is.
#[derive(Debug)]
pub struct BoundedDecoder<U> {
    shape: Option<&'static Shape>,
    decoded: PhantomData<U>,
}

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    /// Copies what it takes of the buffer: a small payload that is kept does not keep the whole request.
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // As the decoder of `tonic-prost` does.
        let invalid = |error: DecodeError| Status::internal(error.to_string());
        let whole = buffer.chunk();
        if let Some(shape) = self.shape
            && !shape.fits(whole, &mut HashMap::new()).map_err(invalid)?
        {
            return Err(Status::resource_exhausted("the request holds too many items"));
        }
        let decoded = U::decode(whole).map_err(invalid)?;
        buffer.advance(buffer.remaining());
        Ok(Some(decoded))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::v1::{self, Message as Wire};

    fn fits<T: Message + Name>(request: &T) -> bool {
        fits_encoded::<T>(&request.encode_to_vec())
    }

    fn fits_encoded<T: Name>(bytes: &[u8]) -> bool {
        let shape = REQUESTS.get(&format!(".{}", T::full_name())).expect("a request");
        shape.fits(bytes, &mut HashMap::new()).expect("valid")
    }

    fn repeated(shape: &Shape, names: &mut BTreeSet<String>) {
        for (_, field) in &shape.0 {
            names.extend(field.repeated.iter().map(|(name, _)| name.clone()));
            field.message.iter().for_each(|shape| repeated(shape, names));
        }
    }

    fn bounds(shape: &Shape) -> Vec<usize> {
        let here = shape.0.iter().filter_map(|(_, field)| Some(field.repeated.as_ref()?.1));
        here.chain(shape.0.iter().filter_map(|(_, field)| field.message.as_ref()).flat_map(bounds)).collect()
    }

    #[test]
    fn every_repeated_field_of_every_request_has_a_bound() {
        let mut names = BTreeSet::new();
        REQUESTS.values().for_each(|shape| repeated(shape, &mut names));
        let named = REPEATED_MAX.iter().map(|(name, _)| name.rsplit('/').next().unwrap_or_default().to_owned());
        assert_eq!(names, named.collect());
        let bounds = REQUESTS.values().flat_map(bounds);
        assert!(bounds.into_iter().all(|max| max > 0), "{REQUESTS:?}");
        assert!(REQUESTS.len() > 20, "{}", REQUESTS.len());
    }

    #[test]
    fn as_many_items_as_may_be_fit_and_one_more_does_not() {
        let publish = |items| v1::PublishStreamRequest { messages: vec![Wire::default(); items], refresh: None };
        assert!(fits(&publish(ITEMS_MAX)) && !fits(&publish(ITEMS_MAX + 1)));
        let operations =
            |items| v1::SessionRequest { operations: vec![v1::StateOperation::default(); items], refresh: None };
        assert!(fits(&operations(ITEMS_MAX)) && !fits(&operations(ITEMS_MAX + 1)));
        let with = |attributes: usize| Wire {
            attributes: (0..attributes).map(|index| (index.to_string(), String::new())).collect(),
            ..Wire::default()
        };
        let publish = |attributes| v1::PublishRequest { message: Some(with(attributes)) };
        assert!(fits(&publish(ATTRIBUTES_OF_ONE_MAX)) && !fits(&publish(ATTRIBUTES_OF_ONE_MAX + 1)));
        let publish = |each| v1::PublishStreamRequest { messages: vec![with(each); 1_000], refresh: None };
        assert!(fits(&publish(32)) && !fits(&publish(33)), "together");
    }

    #[test]
    fn items_are_counted_wherever_they_stand() {
        // A field that does not repeat, given twice, is merged: what it holds adds up.
        let half = |from: usize| v1::PublishRequest {
            message: Some(Wire {
                attributes: (from..from + ATTRIBUTES_OF_ONE_MAX / 2 + 1)
                    .map(|index| (index.to_string(), String::new()))
                    .collect(),
                ..Wire::default()
            }),
        };
        let mut bytes = half(0).encode_to_vec();
        assert!(fits_encoded::<v1::PublishRequest>(&bytes));
        bytes.extend(half(ATTRIBUTES_MAX).encode_to_vec());
        assert!(!fits_encoded::<v1::PublishRequest>(&bytes));
        let oversized = vec![0x0a, 0xff, 0xff, 0xff, 0x7f];
        assert!(fits_encoded::<v1::PublishStreamRequest>(&oversized), "left to the decoder");
    }
}
