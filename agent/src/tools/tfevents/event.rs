//! The messages in TensorBoard's records, as far as they hold figures: `Event` of TensorFlow's `event.proto`, with
//! plain values (`simple_value`) and the tensors of one element that TensorFlow 2 writes instead.

use prost::Message as _;

/// Most figures of one event.
const MAX_VALUES: usize = 1024;

/// The figures of one event.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Scalars {
    /// Unix seconds.
    pub(super) wall_time: f64,
    /// The step as the tool counts.
    pub(super) step: i64,
    /// Tags and values.
    pub(super) values: Vec<(String, f64)>,
}

/// Reads one payload; nothing when it is no event.
pub(super) fn decode(payload: &[u8]) -> Option<Scalars> {
    let event = Event::decode(payload).ok()?;
    let values = event.summary.into_iter().flat_map(|summary| summary.value);
    let values = values.filter_map(|value| {
        let number = match (value.simple_value, &value.tensor) {
            (Some(simple), _) => Some(f64::from(simple)),
            (None, Some(tensor)) => tensor.scalar(),
            (None, None) => None,
        }?;
        Some((value.tag, number))
    });
    Some(Scalars {
        wall_time: event.wall_time,
        step: event.step,
        values: values.take(MAX_VALUES).collect(),
    })
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Event {
    #[prost(double, tag = "1")]
    pub(super) wall_time: f64,
    #[prost(int64, tag = "2")]
    pub(super) step: i64,
    #[prost(message, optional, tag = "5")]
    pub(super) summary: Option<Summary>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub(super) value: Vec<Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
    #[prost(float, optional, tag = "2")]
    pub(super) simple_value: Option<f32>,
    #[prost(message, optional, tag = "8")]
    pub(super) tensor: Option<Tensor>,
}

/// A tensor in one of its two forms: raw bytes in little endian, or a list of its type.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tensor {
    #[prost(int32, tag = "1")]
    pub(super) dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<Shape>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) content: Vec<u8>,
    #[prost(float, repeated, tag = "5")]
    pub(super) floats: Vec<f32>,
    #[prost(double, repeated, tag = "6")]
    pub(super) doubles: Vec<f64>,
    #[prost(int32, repeated, tag = "7")]
    pub(super) ints: Vec<i32>,
    #[prost(int64, repeated, tag = "10")]
    pub(super) longs: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Shape {
    #[prost(message, repeated, tag = "2")]
    pub(super) dims: Vec<Dim>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Dim {
    #[prost(int64, tag = "1")]
    pub(super) size: i64,
}

/// TensorFlow's numbers for the types that figures have.
mod dtype {
    pub(super) const FLOAT: i32 = 1;
    pub(super) const DOUBLE: i32 = 2;
    pub(super) const INT32: i32 = 3;
    pub(super) const INT64: i32 = 9;
}

impl Tensor {
    /// Its only element, when it has no more than one and that is a number.
    fn scalar(&self) -> Option<f64> {
        if self.shape.iter().flat_map(|shape| &shape.dims).any(|dim| dim.size != 1) {
            return None;
        }
        let raw = self.content.as_slice();
        match self.dtype {
            dtype::FLOAT if raw.is_empty() => self.floats.first().copied().map(f64::from),
            dtype::FLOAT => Some(f64::from(f32::from_le_bytes(raw.try_into().ok()?))),
            dtype::DOUBLE if raw.is_empty() => self.doubles.first().copied(),
            dtype::DOUBLE => Some(f64::from_le_bytes(raw.try_into().ok()?)),
            dtype::INT32 if raw.is_empty() => self.ints.first().copied().map(f64::from),
            dtype::INT32 => Some(f64::from(i32::from_le_bytes(raw.try_into().ok()?))),
            dtype::INT64 if raw.is_empty() => self.longs.first().copied().map(real),
            dtype::INT64 => Some(real(i64::from_le_bytes(raw.try_into().ok()?))),
            _ => None,
        }
    }
}

fn real(value: i64) -> f64 {
    let size = crate::observe::text::approximate(value.unsigned_abs());
    if value < 0 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tensor: Tensor) -> Option<f64> {
        let value = Value { tag: "x".to_owned(), simple_value: None, tensor: Some(tensor) };
        let event =
            Event { wall_time: 1.5, step: 7, summary: Some(Summary { value: vec![value] }) };
        let scalars = decode(&event.encode_to_vec()).expect("an event");
        assert_eq!((scalars.wall_time, scalars.step), (1.5, 7));
        scalars.values.first().map(|(_, value)| *value)
    }

    #[test]
    fn a_tensor_of_one_element_is_a_figure_in_each_form() {
        let of = |dtype| Tensor { dtype, ..Tensor::default() };
        assert_eq!(read(Tensor { content: 0.5_f32.to_le_bytes().to_vec(), ..of(1) }), Some(0.5));
        assert_eq!(read(Tensor { floats: vec![0.25], ..of(1) }), Some(0.25));
        assert_eq!(read(Tensor { content: 0.5_f64.to_le_bytes().to_vec(), ..of(2) }), Some(0.5));
        assert_eq!(read(Tensor { doubles: vec![2.0], ..of(2) }), Some(2.0));
        assert_eq!(read(Tensor { ints: vec![-3], ..of(3) }), Some(-3.0));
        assert_eq!(read(Tensor { content: (-9_i64).to_le_bytes().to_vec(), ..of(9) }), Some(-9.0));
        let one = Shape { dims: vec![Dim { size: 1 }] };
        assert_eq!(read(Tensor { floats: vec![0.25], shape: Some(one), ..of(1) }), Some(0.25));
    }

    #[test]
    fn what_is_no_figure_is_none() {
        let of = |dtype| Tensor { dtype, ..Tensor::default() };
        let two = Shape { dims: vec![Dim { size: 2 }] };
        assert_eq!(read(Tensor { floats: vec![0.25, 1.0], shape: Some(two), ..of(1) }), None);
        assert_eq!(read(Tensor { content: vec![1, 2, 3], ..of(1) }), None);
        assert_eq!(read(Tensor { content: b"text".to_vec(), ..of(7) }), None);
        assert_eq!(read(of(1)), None);
        assert_eq!(decode(&[0xff; 8]), None);
    }
}
