//! What a client sends.

use crate::reducers::{self, CallRefused};
use bytes::Bytes;
use rtdb_determinism::Module;
use serde::de::DeserializeSeed;
use spacetimedb_sats::serde::SerdeWrapper;
use spacetimedb_sats::{
    AlgebraicType, AlgebraicValue, ArrayValue, ProductType, SumType, Typespace, WithTypespace, bsatn,
};
use std::sync::LazyLock;

/// A message of the client's, in BSATN.
pub(crate) struct Asked {
    pub(crate) frame: Bytes,
    /// Why its arguments can't be read, if it calls and they can't. They are left out then.
    pub(crate) misread: Option<CallRefused>,
}

/// v1's messages, by their names in JSON. Arguments are JSON within a text, which BSATN writes as it does the bytes of other
/// clients' arguments.
static MESSAGE: LazyLock<AlgebraicType> = LazyLock::new(|| {
    let (text, number) = (AlgebraicType::String, AlgebraicType::U32);
    let texts = AlgebraicType::array(text.clone());
    let set: AlgebraicType = ProductType::from([("id", number.clone())]).into();
    let call = |what: &'static str| {
        ProductType::from([
            (what, text.clone()),
            ("args", text.clone()),
            ("request_id", number.clone()),
            ("flags", AlgebraicType::U8),
        ])
    };
    let one = |what: &'static str, of: &AlgebraicType| {
        ProductType::from([
            (what, of.clone()),
            ("request_id", number.clone()),
            ("query_id", set.clone()),
        ])
    };
    let unsubscribe = || ProductType::from([("request_id", number.clone()), ("query_id", set.clone())]);
    let subscribe = ProductType::from([("query_strings", texts.clone()), ("request_id", number.clone())]);
    let query = ProductType::from([
        ("message_id", AlgebraicType::bytes()),
        ("query_string", text.clone()),
    ]);
    SumType::from([
        ("CallReducer", call("reducer").into()),
        ("Subscribe", subscribe.into()),
        ("OneOffQuery", query.into()),
        ("SubscribeSingle", one("query", &text).into()),
        ("SubscribeMulti", one("query_strings", &texts).into()),
        ("Unsubscribe", unsubscribe().into()),
        ("UnsubscribeMulti", unsubscribe().into()),
        ("CallProcedure", AlgebraicType::from(call("procedure"))),
    ])
    .into()
});

const CALL_REDUCER: u8 = 0;
const CALL_PROCEDURE: u8 = 7;

/// Reads a message.
///
/// # Errors
/// What is wrong with it, if it is none.
pub(crate) fn request(text: &str, module: &Module, is_owner: bool) -> Result<Asked, String> {
    let types = Typespace::EMPTY;
    let mut json = serde_json::Deserializer::from_str(text);
    let message = SerdeWrapper(WithTypespace::new(types, &*MESSAGE)).deserialize(&mut json);
    let mut message = message.map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    let misread = with_args(&mut message, module, is_owner).err();
    let frame = bsatn::to_vec(&message).map_err(|error| error.to_string())?;
    Ok(Asked {
        frame: frame.into(),
        misread,
    })
}

/// Puts the arguments of a call into BSATN.
fn with_args(message: &mut AlgebraicValue, module: &Module, is_owner: bool) -> Result<(), CallRefused> {
    let AlgebraicValue::Sum(message) = message else {
        return Ok(());
    };
    let tag = message.tag;
    let AlgebraicValue::Product(call) = &mut *message.value else {
        return Ok(());
    };
    let [AlgebraicValue::String(name), args, ..] = &mut *call.elements else {
        return Ok(());
    };
    let AlgebraicValue::String(json) = &*args else {
        return Ok(());
    };
    let read = match tag {
        CALL_REDUCER => {
            reducers::args_from_json(module, name, json.as_bytes(), is_owner).map(|(_, args)| args)
        }
        CALL_PROCEDURE => {
            reducers::procedure_args_from_json(module, name, json.as_bytes(), is_owner).map(|(_, args)| args)
        }
        _ => return Ok(()),
    };
    let (bytes, misread) = match read {
        Ok(bytes) => (bytes, Ok(())),
        Err(why) => (Vec::new(), Err(why)),
    };
    *args = AlgebraicValue::Array(ArrayValue::U8(bytes.into()));
    misread
}
