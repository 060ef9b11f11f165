//! Why a token or a key set is not accepted, with the numbers and the words that Envoy tells clients and logs.

/// The outcome of a verification that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// `code` in the metadata of `failed_status_in_metadata`.
    pub(super) code: u8,
    /// The body of the reply.
    pub(super) text: &'static str,
}

macro_rules! statuses {
    ($($name:ident $code:literal $text:literal;)*) => {
        impl Status {
            $(pub(super) const $name: Status = Status { code: $code, text: $text };)*
        }
    };
}

statuses! {
    MISSING 1 "Jwt is missing";
    NOT_YET_VALID 2 "Jwt not yet valid";
    EXPIRED 3 "Jwt is expired";
    BAD_FORMAT 4 "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    HEADER_NOT_BASE64 5 "Jwt header is an invalid Base64url encoded";
    HEADER_NOT_JSON 6 "Jwt header is an invalid JSON";
    HEADER_BAD_ALG 7 "Jwt header [alg] field is required and must be a string";
    HEADER_UNKNOWN_ALG 8 "Jwt header [alg] is not supported";
    HEADER_BAD_KID 9 "Jwt header [kid] field is not a string";
    PAYLOAD_NOT_BASE64 10 "Jwt payload is an invalid Base64url encoded";
    PAYLOAD_NOT_JSON 11 "Jwt payload is an invalid JSON";
    ISS_NOT_STRING 12 "Jwt payload [iss] field is not a string";
    SUB_NOT_STRING 13 "Jwt payload [sub] field is not a string";
    IAT_NOT_INTEGER 14 "Jwt payload [iat] field is not an integer";
    IAT_OUT_OF_RANGE 15 "Jwt payload [iat] field is not a positive 64 bit integer";
    NBF_NOT_INTEGER 16 "Jwt payload [nbf] field is not an integer";
    NBF_OUT_OF_RANGE 17 "Jwt payload [nbf] field is not a positive 64 bit integer";
    EXP_NOT_INTEGER 18 "Jwt payload [exp] field is not an integer";
    EXP_OUT_OF_RANGE 19 "Jwt payload [exp] field is not a positive 64 bit integer";
    JTI_NOT_STRING 20 "Jwt payload [jti] field is not a string";
    AUD_NOT_STRING 21 "Jwt payload [aud] field is not a string or string list";
    SIGNATURE_NOT_BASE64 22 "Jwt signature is an invalid Base64url encoded";
    ED25519_SIGNATURE_LENGTH 23 "Jwt ED25519 signature is wrong length";
    UNKNOWN_ISSUER 24 "Jwt issuer is not configured";
    AUDIENCE_NOT_ALLOWED 25 "Audiences in Jwt are not allowed";
    VERIFICATION_FAILED 26 "Jwt verification fails";
    NO_MATCHING_KEY 32 "Jwks doesn't have key to match kid or alg from Jwt";
    FETCH_FAILED 40 "Jwks remote fetch is failed";
}
