//! Packets that MQTT 3.1.1 and 3.1 forbid, by the statement that forbids them:
//! `mqtt311_3_1_2_3_…` shows [MQTT-3.1.2-3] of 3.1.1. The reason is what the same fault is in
//! 5.0; 3.1.1 closes the connection without one.

mod common;

use common::{connect3, connect4, p, refused, s};

refused! {
    mqtt311_1_5_3_1_surrogates: V3_1_1 Client p(0x30, &[&s([0xED, 0xBF, 0xBF])])
        => MALFORMED_PACKET "PUBLISH: Topic Name: not well-formed UTF-8 from byte 0 on";
    mqtt311_1_5_3_2_null: V3_1_1 Client p(0x30, &[&s("\0")])
        => MALFORMED_PACKET "PUBLISH: Topic Name: must not hold U+0000";
    mqtt311_2_2_2_1_reserved_flags: V3_1_1 Client [0xC8, 0]
        => MALFORMED_PACKET
        "PINGREQ: fixed header flags: reserved bits are 0b00001000, and must be 0b00000000";
    mqtt311_2_3_1_1_packet_identifier_0_of_publish: V3_1_1 Client p(0x32, &[&s("t"), &[0, 0]])
        => PROTOCOL_ERROR "PUBLISH: Packet Identifier: 0 is not allowed here";
    mqtt311_2_3_1_1_packet_identifier_0_of_subscribe: V3_1_1 Client
        p(0x82, &[&[0, 0], &s("a"), &[0]])
        => PROTOCOL_ERROR "SUBSCRIBE: Packet Identifier: 0 is not allowed here";
    mqtt311_2_3_1_1_packet_identifier_0_of_unsubscribe: V3_1_1 Client p(0xA2, &[&[0, 0], &s("a")])
        => PROTOCOL_ERROR "UNSUBSCRIBE: Packet Identifier: 0 is not allowed here";
    mqtt311_3_1_2_1_protocol_name: V3_1_1 Client p(0x10, &[&s("mqtt"), &[4, 2, 0, 0], &s("")])
        => UNSUPPORTED_PROTOCOL_VERSION
        "CONNECT: Protocol Name and Level: neither MQTT level 4 or 5 nor MQIsdp level 3";
    mqtt311_3_1_2_2_protocol_level: V3_1_1 Client p(0x10, &[&s("MQTT"), &[3, 2, 0, 0], &s("")])
        => UNSUPPORTED_PROTOCOL_VERSION
        "CONNECT: Protocol Name and Level: neither MQTT level 4 or 5 nor MQIsdp level 3";
    mqtt311_3_1_2_3_reserved_flag: V3_1_1 Client connect4(3, &[])
        => MALFORMED_PACKET
        "CONNECT: Connect Flags: reserved bits are 0b00000011, and must be 0b00000010";
    mqtt311_3_1_2_9_will_message_missing: V3_1_1 Client connect4(6, &[&s("t")])
        => MALFORMED_PACKET "CONNECT: Will Payload: the packet ends before it does";
    mqtt311_3_1_2_11_will_without_flag: V3_1_1 Client connect4(2, &[&s("t"), &s("m")])
        => MALFORMED_PACKET "CONNECT: end: 6 bytes too many";
    mqtt311_3_1_2_13_will_qos_without_will: V3_1_1 Client connect4(0x12, &[])
        => MALFORMED_PACKET "CONNECT: Will QoS: given without Will Flag";
    mqtt311_3_1_2_14_will_qos_3: V3_1_1 Client connect4(0x1E, &[&s("t"), &s("m")])
        => MALFORMED_PACKET "CONNECT: Will QoS: 3 is not allowed here";
    mqtt311_3_1_2_15_will_retain_without_will: V3_1_1 Client connect4(0x22, &[])
        => MALFORMED_PACKET "CONNECT: Will Retain: given without Will Flag";
    mqtt311_3_1_2_18_user_name_without_flag: V3_1_1 Client connect4(2, &[&s("u")])
        => MALFORMED_PACKET "CONNECT: end: 3 bytes too many";
    mqtt311_3_1_2_19_user_name_missing: V3_1_1 Client connect4(0x82, &[])
        => MALFORMED_PACKET "CONNECT: User Name: the packet ends before it does";
    mqtt311_3_1_2_20_password_without_flag: V3_1_1 Client connect4(0x82, &[&s("u"), &s("p")])
        => MALFORMED_PACKET "CONNECT: end: 3 bytes too many";
    mqtt311_3_1_2_21_password_missing: V3_1_1 Client connect4(0xC2, &[&s("u")])
        => MALFORMED_PACKET "CONNECT: Password: the packet ends before it does";
    mqtt311_3_1_2_22_password_without_user_name: V3_1_1 Client connect4(0x42, &[&s("p")])
        => MALFORMED_PACKET "CONNECT: Password Flag: given without User Name Flag";
    mqtt311_3_1_3_3_client_identifier_missing: V3_1_1 Client p(0x10, &[&s("MQTT"), &[4, 2, 0, 0]])
        => MALFORMED_PACKET "CONNECT: Client Identifier: the packet ends before it does";
    mqtt311_3_1_3_4_client_identifier_not_utf8: V3_1_1 Client
        p(0x10, &[&s("MQTT"), &[4, 2, 0, 0], &s([0xFF])])
        => MALFORMED_PACKET "CONNECT: Client Identifier: not well-formed UTF-8 from byte 0 on";
    mqtt311_3_1_3_8_empty_client_identifier_of_a_lasting_session: V3_1_1 Client
        p(0x10, &[&s("MQTT"), &[4, 0, 0, 0], &s("")])
        => CLIENT_IDENTIFIER_NOT_VALID "CONNECT: Client Identifier: given without Clean Session";
    mqtt311_3_1_3_10_will_topic_not_utf8: V3_1_1 Client connect4(6, &[&s([0xFF]), &s("")])
        => MALFORMED_PACKET "CONNECT: Will Topic: not well-formed UTF-8 from byte 0 on";
    mqtt311_3_1_3_11_user_name_not_utf8: V3_1_1 Client connect4(0x82, &[&s([0xFF])])
        => MALFORMED_PACKET "CONNECT: User Name: not well-formed UTF-8 from byte 0 on";
    mqtt311_3_1_4_1_cut_connect: V3_1_1 Client p(0x10, &[&s("MQTT"), &[4]])
        => MALFORMED_PACKET "CONNECT: Connect Flags: the packet ends before it does";
    mqtt311_3_2_2_4_session_present_beside_a_failure: V3_1_1 Server [0x20, 2, 1, 5]
        => PROTOCOL_ERROR "CONNACK: Session Present: must not be set beside a failure";
    mqtt311_3_2_2_6_unknown_return_code: V3_1_1 Server [0x20, 2, 0, 6]
        => PROTOCOL_ERROR "CONNACK: Reason Code: 6 is not allowed here";
    mqtt311_3_3_1_2_dup_with_qos_0: V3_1_1 Client p(0x38, &[&s("t")])
        => MALFORMED_PACKET "PUBLISH: DUP flag: must not be set with QoS 0";
    mqtt311_3_3_1_4_qos_3: V3_1_1 Client p(0x3E, &[&s("t"), &[0, 1]])
        => MALFORMED_PACKET "PUBLISH: QoS: 3 is not allowed here";
    mqtt311_3_3_2_1_topic_name_cut: V3_1_1 Client [0x30, 4, 0, 3, b'a', b'b']
        => MALFORMED_PACKET "PUBLISH: Topic Name: the packet ends before it does";
    mqtt311_3_3_2_2_wildcard_in_a_topic_name: V3_1_1 Client p(0x30, &[&s("#")])
        => TOPIC_NAME_INVALID "PUBLISH: Topic Name: must not hold a wildcard ('+' or '#')";
    mqtt311_4_7_3_1_empty_topic_name: V3_1_1 Client p(0x30, &[&s("")])
        => TOPIC_NAME_INVALID "PUBLISH: Topic Name: must not be empty";
    mqtt311_3_6_1_1_pubrel_flags: V3_1_1 Client [0x6A, 2, 0, 1]
        => MALFORMED_PACKET
        "PUBREL: fixed header flags: reserved bits are 0b00001010, and must be 0b00000010";
    mqtt311_3_8_1_1_subscribe_flags: V3_1_1 Client p(0x8A, &[&[0, 1], &s("a"), &[0]])
        => MALFORMED_PACKET
        "SUBSCRIBE: fixed header flags: reserved bits are 0b00001010, and must be 0b00000010";
    mqtt311_3_8_3_1_filter_not_utf8: V3_1_1 Client p(0x82, &[&[0, 1], &s([0xFF]), &[0]])
        => MALFORMED_PACKET "SUBSCRIBE: Topic Filter: not well-formed UTF-8 from byte 0 on";
    mqtt311_3_8_3_3_empty_subscribe: V3_1_1 Client p(0x82, &[&[0, 1]])
        => PROTOCOL_ERROR "SUBSCRIBE: payload: must not be empty";
    mqtt311_3_8_3_4_reserved_bits_of_the_qos: V3_1_1 Client p(0x82, &[&[0, 1], &s("a"), &[4]])
        => MALFORMED_PACKET
        "SUBSCRIBE: Subscription Options: reserved bits are 0b00000100, and must be 0b00000000";
    mqtt311_3_8_3_4_qos_3: V3_1_1 Client p(0x82, &[&[0, 1], &s("a"), &[3]])
        => PROTOCOL_ERROR "SUBSCRIBE: Maximum QoS: 3 is not allowed here";
    mqtt311_3_9_3_2_suback_return_code: V3_1_1 Server [0x90, 3, 0, 1, 3]
        => PROTOCOL_ERROR "SUBACK: Reason Codes: 3 is not allowed here";
    mqtt311_3_10_1_1_unsubscribe_flags: V3_1_1 Client p(0xA0, &[&[0, 1], &s("a")])
        => MALFORMED_PACKET
        "UNSUBSCRIBE: fixed header flags: reserved bits are 0b00000000, and must be 0b00000010";
    mqtt311_3_10_3_1_filter_not_utf8: V3_1_1 Client p(0xA2, &[&[0, 1], &s([0xFF])])
        => MALFORMED_PACKET "UNSUBSCRIBE: Topic Filter: not well-formed UTF-8 from byte 0 on";
    mqtt311_3_10_3_2_empty_unsubscribe: V3_1_1 Client p(0xA2, &[&[0, 1]])
        => PROTOCOL_ERROR "UNSUBSCRIBE: payload: must not be empty";
    mqtt311_3_14_1_1_disconnect_flags: V3_1_1 Client [0xE2, 0]
        => MALFORMED_PACKET
        "DISCONNECT: fixed header flags: reserved bits are 0b00000010, and must be 0b00000000";
    section_3_14_disconnect_with_a_body: V3_1_1 Client [0xE0, 1, 0]
        => MALFORMED_PACKET "DISCONNECT: end: 1 bytes too many";
    section_3_14_a_server_sends_no_disconnect: V3_1_1 Server [0xE0, 0]
        => PROTOCOL_ERROR
        "DISCONNECT: packet type: not a packet that this side sends in MQTT 3.1.1";
    section_2_2_1_no_auth: V3_1_1 Client [0xF0, 0]
        => PROTOCOL_ERROR "AUTH: packet type: not a packet that this side sends in MQTT 3.1.1";
    mqtt311_4_7_1_1_wildcard_in_a_will_topic: V3_1_1 Client connect4(6, &[&s("+"), &s("")])
        => TOPIC_NAME_INVALID "CONNECT: Will Topic: must not hold a wildcard ('+' or '#')";
    mqtt311_4_7_1_2_misplaced_multi_level_wildcard: V3_1_1 Client
        p(0x82, &[&[0, 1], &s("a#"), &[0]])
        => TOPIC_FILTER_INVALID
        "SUBSCRIBE: Topic Filter: '#' stands alone in the last level only, and '+' alone in its level";
    mqtt311_4_7_1_3_misplaced_single_level_wildcard: V3_1_1 Client
        p(0xA2, &[&[0, 1], &s("a/b+")])
        => TOPIC_FILTER_INVALID
        "UNSUBSCRIBE: Topic Filter: '#' stands alone in the last level only, and '+' alone in its level";
    mqtt311_4_7_3_1_empty_filter: V3_1_1 Client p(0x82, &[&[0, 1], &s(""), &[0]])
        => TOPIC_FILTER_INVALID "SUBSCRIBE: Topic Filter: must not be empty";
    mqtt311_4_7_3_2_null_in_a_filter: V3_1_1 Client p(0xA2, &[&[0, 1], &s("a\0")])
        => MALFORMED_PACKET "UNSUBSCRIBE: Topic Filter: must not hold U+0000";
    section_3_4_ack_with_a_reason: V3_1_1 Client [0x40, 3, 0, 1, 0]
        => MALFORMED_PACKET "PUBACK: end: 1 bytes too many";
}

// 3.1 numbers no statements; names tell its sections.
refused! {
    mqtt31_3_1_empty_client_identifier: V3_1 Client
        p(0x10, &[&s("MQIsdp"), &[3, 2, 0, 0], &s("")])
        => CLIENT_IDENTIFIER_NOT_VALID "CONNECT: Client Identifier: must not be empty";
    mqtt31_3_1_protocol_version: V3_1 Client p(0x10, &[&s("MQIsdp"), &[4, 2, 0, 0], &s("i")])
        => UNSUPPORTED_PROTOCOL_VERSION
        "CONNECT: Protocol Name and Level: neither MQTT level 4 or 5 nor MQIsdp level 3";
    mqtt31_3_1_will_qos_3: V3_1 Client connect3(0x1E, &[&s("t"), &s("m")])
        => MALFORMED_PACKET "CONNECT: Will QoS: 3 is not allowed here";
    mqtt31_3_1_password_without_user_name: V3_1 Client connect3(0x42, &[&s("p")])
        => MALFORMED_PACKET "CONNECT: Password Flag: given without User Name Flag";
    mqtt31_3_6_pubrel_has_qos_1: V3_1 Client [0x60, 2, 0, 1]
        => MALFORMED_PACKET
        "PUBREL: fixed header flags: reserved bits are 0b00000000, and must be 0b00000010";
    mqtt31_3_3_empty_topic: V3_1 Client p(0x30, &[&s("")])
        => TOPIC_NAME_INVALID "PUBLISH: Topic Name: must not be empty";
}
