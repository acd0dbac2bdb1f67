//! Packets that MQTT 5.0 forbids, by the statement that forbids them: `mqtt5_3_1_2_3_…` shows
//! [MQTT-3.1.2-3], `section_…` what a section says without a number.

mod common;

use common::{connect5, p, props, publish5, refused, s, will5};

// Section 1.5: data types.
refused! {
    mqtt5_1_5_4_1_ill_formed_utf8: V5 Client p(0x30, &[&s([b'a', 0xC0, 0xAF]), &[0]])
        => MALFORMED_PACKET "PUBLISH: Topic Name: not well-formed UTF-8 from byte 1 on";
    mqtt5_1_5_4_1_cut_utf8: V5 Client p(0x30, &[&s([b'a', b'b', 0xE2, 0x82]), &[0]])
        => MALFORMED_PACKET "PUBLISH: Topic Name: not well-formed UTF-8 from byte 2 on";
    mqtt5_1_5_4_1_surrogates: V5 Client connect5(2 | 0x80, &[], &[&s([0xED, 0xA0, 0x80])])
        => MALFORMED_PACKET "CONNECT: User Name: not well-formed UTF-8 from byte 0 on";
    mqtt5_1_5_4_2_null: V5 Client p(0x30, &[&s("a\0"), &[0]])
        => MALFORMED_PACKET "PUBLISH: Topic Name: must not hold U+0000";
    mqtt5_1_5_4_2_null_in_a_filter: V5 Client p(0x82, &[&[0, 1, 0], &s("a\0"), &[0]])
        => MALFORMED_PACKET "SUBSCRIBE: Topic Filter: must not hold U+0000";
    mqtt5_1_5_5_1_longer_remaining_length: V5 Client [0xC0, 0x80, 0x00]
        => MALFORMED_PACKET
        "PINGREQ: Remaining Length: a variable byte integer must be as short as it can be";
    mqtt5_1_5_5_1_longer_remaining_length_of_a_publish: V5 Client [0x30, 0x84, 0x00, 0, 1, b't', 0]
        => MALFORMED_PACKET
        "PUBLISH: Remaining Length: a variable byte integer must be as short as it can be";
    mqtt5_1_5_5_1_longer_remaining_length_of_a_connect: V5 Client
        [&[0x10, 0x8D, 0x00][..], &s("MQTT"), &[5, 2, 0, 0, 0], &s("")].concat()
        => MALFORMED_PACKET
        "CONNECT: Remaining Length: a variable byte integer must be as short as it can be";
    mqtt5_1_5_5_1_longer_property_length: V5 Client p(0x30, &[&s("t"), &[0x80, 0x00]])
        => MALFORMED_PACKET
        "PUBLISH: Property Length: a variable byte integer must be as short as it can be";
    mqtt5_1_5_5_1_longer_subscription_identifier: V5 Client
        p(0x82, &[&[0, 1], &props(&[&[0x0B, 0x81, 0x00]]), &s("a"), &[0]])
        => MALFORMED_PACKET
        "SUBSCRIBE: Subscription Identifier: a variable byte integer must be as short as it can be";
    section_1_5_5_integers_of_five_bytes: V5 Client
        p(0x30, &[&s("t"), &[0xFF, 0xFF, 0xFF, 0xFF, 0x7F]])
        => MALFORMED_PACKET
        "PUBLISH: Property Length: a variable byte integer has four bytes at the most";
    mqtt5_1_5_7_1_ill_formed_pairs: V5 Client publish5(&[&[0x26], &s("n"), &s([0xFF])])
        => MALFORMED_PACKET "PUBLISH: User Property: not well-formed UTF-8 from byte 0 on";
}

// Section 2: packets.
refused! {
    mqtt5_2_1_3_1_flags_of_pingreq: V5 Client [0xC1, 0]
        => MALFORMED_PACKET
        "PINGREQ: fixed header flags: reserved bits are 0b00000001, and must be 0b00000000";
    mqtt5_2_1_3_1_flags_of_puback: V5 Client [0x42, 2, 0, 1]
        => MALFORMED_PACKET
        "PUBACK: fixed header flags: reserved bits are 0b00000010, and must be 0b00000000";
    mqtt5_2_1_3_1_flags_of_connect: V5 Client
        p(0x11, &[&s("MQTT"), &[5, 2, 0, 0, 0], &s("")])
        => MALFORMED_PACKET
        "CONNECT: fixed header flags: reserved bits are 0b00000001, and must be 0b00000000";
    section_2_1_2_packet_type_0: V5 Client [0x00, 0]
        => MALFORMED_PACKET "reserved packet type 0: packet type: 0 is not allowed here";
    mqtt5_2_2_1_3_packet_identifier_0_of_publish: V5 Client p(0x32, &[&s("t"), &[0, 0, 0]])
        => PROTOCOL_ERROR "PUBLISH: Packet Identifier: 0 is not allowed here";
    mqtt5_2_2_1_3_packet_identifier_0_of_subscribe: V5 Client
        p(0x82, &[&[0, 0, 0], &s("a"), &[0]])
        => PROTOCOL_ERROR "SUBSCRIBE: Packet Identifier: 0 is not allowed here";
    mqtt5_2_2_1_3_packet_identifier_0_of_unsubscribe: V5 Client p(0xA2, &[&[0, 0, 0], &s("a")])
        => PROTOCOL_ERROR "UNSUBSCRIBE: Packet Identifier: 0 is not allowed here";
    mqtt5_2_2_1_5_packet_identifier_0_of_pubrel: V5 Client [0x62, 2, 0, 0]
        => PROTOCOL_ERROR "PUBREL: Packet Identifier: 0 is not allowed here";
    mqtt5_2_2_2_1_no_property_length: V5 Client p(0x30, &[&s("t")])
        => MALFORMED_PACKET "PUBLISH: Property Length: the packet ends before it does";
    section_2_2_2_1_property_length_beyond_the_packet: V5 Client p(0x30, &[&s("t"), &[3, 0x01, 1]])
        => MALFORMED_PACKET "PUBLISH: Property Length: the packet ends before it does";
    section_2_2_2_2_unknown_property: V5 Client publish5(&[&[0x04, 0]])
        => MALFORMED_PACKET "PUBLISH: property identifier: 4 is not allowed here";
    section_2_2_2_2_property_of_two_bytes: V5 Client publish5(&[&[0x81, 0x01, 0]])
        => MALFORMED_PACKET "PUBLISH: property identifier: 129 is not allowed here";
    section_2_2_2_2_foreign_property: V5 Client publish5(&[&[0x21, 0, 1]])
        => MALFORMED_PACKET "PUBLISH: Receive Maximum: not a property of this packet";
    section_2_2_2_2_cut_property: V5 Client publish5(&[&[0x02, 0, 0, 1]])
        => MALFORMED_PACKET "PUBLISH: Message Expiry Interval: the packet ends before it does";
}

// Section 3.1: CONNECT.
refused! {
    mqtt5_3_1_2_1_protocol_name: V5 Client p(0x10, &[&s("MQTt"), &[5, 2, 0, 0, 0], &s("")])
        => UNSUPPORTED_PROTOCOL_VERSION
        "CONNECT: Protocol Name and Level: neither MQTT level 4 or 5 nor MQIsdp level 3";
    mqtt5_3_1_2_2_protocol_version: V5 Client p(0x10, &[&s("MQTT"), &[6, 2, 0, 0, 0], &s("")])
        => UNSUPPORTED_PROTOCOL_VERSION
        "CONNECT: Protocol Name and Level: neither MQTT level 4 or 5 nor MQIsdp level 3";
    mqtt5_3_1_2_3_reserved_flag: V5 Client connect5(3, &[], &[])
        => MALFORMED_PACKET
        "CONNECT: Connect Flags: reserved bits are 0b00000011, and must be 0b00000010";
    mqtt5_3_1_2_9_will_topic_missing: V5 Client connect5(0x06, &[], &[&[0]])
        => MALFORMED_PACKET "CONNECT: Will Topic: the packet ends before it does";
    mqtt5_3_1_2_9_will_payload_missing: V5 Client connect5(0x06, &[], &[&[0], &s("t")])
        => MALFORMED_PACKET "CONNECT: Will Payload: the packet ends before it does";
    mqtt5_3_1_2_11_will_qos_without_will: V5 Client connect5(0x0A, &[], &[])
        => MALFORMED_PACKET "CONNECT: Will QoS: given without Will Flag";
    mqtt5_3_1_2_12_will_qos_3: V5 Client connect5(0x1E, &[], &[&will5(&[])])
        => MALFORMED_PACKET "CONNECT: Will QoS: 3 is not allowed here";
    mqtt5_3_1_2_13_will_retain_without_will: V5 Client connect5(0x22, &[], &[])
        => MALFORMED_PACKET "CONNECT: Will Retain: given without Will Flag";
    mqtt5_3_1_2_16_user_name_without_flag: V5 Client connect5(0x02, &[], &[&s("u")])
        => MALFORMED_PACKET "CONNECT: end: 3 bytes too many";
    mqtt5_3_1_2_17_user_name_missing: V5 Client connect5(0x82, &[], &[])
        => MALFORMED_PACKET "CONNECT: User Name: the packet ends before it does";
    mqtt5_3_1_2_18_password_without_flag: V5 Client connect5(0x82, &[], &[&s("u"), &s("p")])
        => MALFORMED_PACKET "CONNECT: end: 3 bytes too many";
    mqtt5_3_1_2_19_password_missing: V5 Client connect5(0x42, &[], &[])
        => MALFORMED_PACKET "CONNECT: Password: the packet ends before it does";
    mqtt5_3_1_3_3_client_identifier_missing: V5 Client p(0x10, &[&s("MQTT"), &[5, 2, 0, 0, 0]])
        => MALFORMED_PACKET "CONNECT: Client Identifier: the packet ends before it does";
    mqtt5_3_1_3_4_client_identifier_not_utf8: V5 Client
        p(0x10, &[&s("MQTT"), &[5, 2, 0, 0, 0], &s([0xFE])])
        => MALFORMED_PACKET "CONNECT: Client Identifier: not well-formed UTF-8 from byte 0 on";
    mqtt5_3_1_3_11_will_topic_not_utf8: V5 Client
        connect5(0x06, &[], &[&[0], &s([0xC3]), &s("")])
        => MALFORMED_PACKET "CONNECT: Will Topic: not well-formed UTF-8 from byte 0 on";
    mqtt5_4_7_0_1_will_topic_with_a_wildcard: V5 Client
        connect5(0x06, &[], &[&[0], &s("a/#"), &s("")])
        => TOPIC_NAME_INVALID "CONNECT: Will Topic: must not hold a wildcard ('+' or '#')";
    mqtt5_3_1_3_12_user_name_not_utf8: V5 Client connect5(0x82, &[], &[&s([0x80])])
        => MALFORMED_PACKET "CONNECT: User Name: not well-formed UTF-8 from byte 0 on";
    mqtt5_3_1_4_1_cut_connect: V5 Client p(0x10, &[&s("MQTT"), &[5, 2, 0]])
        => MALFORMED_PACKET "CONNECT: Keep Alive: the packet ends before it does";
    section_3_1_2_11_2_session_expiry_twice: V5 Client
        connect5(2, &[&[0x11, 0, 0, 0, 1], &[0x11, 0, 0, 0, 1]], &[])
        => PROTOCOL_ERROR "CONNECT: Session Expiry Interval: given twice";
    section_3_1_2_11_3_receive_maximum_0: V5 Client connect5(2, &[&[0x21, 0, 0]], &[])
        => PROTOCOL_ERROR "CONNECT: Receive Maximum: 0 is not allowed here";
    section_3_1_2_11_4_maximum_packet_size_0: V5 Client connect5(2, &[&[0x27, 0, 0, 0, 0]], &[])
        => PROTOCOL_ERROR "CONNECT: Maximum Packet Size: 0 is not allowed here";
    section_3_1_2_11_5_topic_alias_maximum_twice: V5 Client
        connect5(2, &[&[0x22, 0, 0], &[0x22, 0, 1]], &[])
        => PROTOCOL_ERROR "CONNECT: Topic Alias Maximum: given twice";
    section_3_1_2_11_6_request_response_information_2: V5 Client connect5(2, &[&[0x19, 2]], &[])
        => PROTOCOL_ERROR "CONNECT: Request Response Information: 2 is not allowed here";
    section_3_1_2_11_7_request_problem_information_2: V5 Client connect5(2, &[&[0x17, 2]], &[])
        => PROTOCOL_ERROR "CONNECT: Request Problem Information: 2 is not allowed here";
    section_3_1_2_11_10_data_without_method: V5 Client connect5(2, &[&[0x16], &s("data")], &[])
        => PROTOCOL_ERROR "CONNECT: Authentication Data: given without Authentication Method";
    section_3_1_3_2_1_a_wills_property_of_connect: V5 Client
        connect5(2, &[&[0x18, 0, 0, 0, 1]], &[])
        => MALFORMED_PACKET "CONNECT: Will Delay Interval: not a property of this packet";
    section_3_1_3_2_2_will_delay_twice: V5 Client
        connect5(6, &[], &[&will5(&[&[0x18, 0, 0, 0, 1], &[0x18, 0, 0, 0, 1]])])
        => PROTOCOL_ERROR "CONNECT: Will Delay Interval: given twice";
    section_3_1_3_2_topic_alias_of_a_will: V5 Client connect5(6, &[], &[&will5(&[&[0x23, 0, 1]])])
        => MALFORMED_PACKET "CONNECT: Topic Alias: not a property of this packet";
    section_3_1_a_server_sends_none: V5 Server connect5(2, &[], &[])
        => PROTOCOL_ERROR "CONNECT: packet type: not a packet that this side sends in MQTT 5.0";
}

// Section 3.2: CONNACK.
refused! {
    mqtt5_3_2_2_1_reserved_acknowledge_flags: V5 Server [0x20, 3, 2, 0, 0]
        => MALFORMED_PACKET
        "CONNACK: Connect Acknowledge Flags: reserved bits are 0b00000010, and must be 0b00000000";
    mqtt5_3_2_2_6_session_present_beside_a_failure: V5 Server [0x20, 3, 1, 0x87, 0]
        => PROTOCOL_ERROR "CONNACK: Session Present: must not be set beside a failure";
    mqtt5_3_2_2_8_unknown_connect_reason: V5 Server [0x20, 3, 0, 0x10, 0]
        => PROTOCOL_ERROR "CONNACK: Reason Code: 16 is not allowed here";
    section_3_2_2_3_4_maximum_qos_2: V5 Server [0x20, 5, 0, 0, 2, 0x24, 2]
        => PROTOCOL_ERROR "CONNACK: Maximum QoS: 2 is not allowed here";
    section_3_2_2_3_5_retain_available_2: V5 Server [0x20, 5, 0, 0, 2, 0x25, 2]
        => PROTOCOL_ERROR "CONNACK: Retain Available: 2 is not allowed here";
    section_3_2_2_3_11_wildcards_available_2: V5 Server [0x20, 5, 0, 0, 2, 0x28, 2]
        => PROTOCOL_ERROR "CONNACK: Wildcard Subscription Available: 2 is not allowed here";
    section_3_2_a_client_sends_none: V5 Client [0x20, 3, 0, 0, 0]
        => PROTOCOL_ERROR "CONNACK: packet type: not a packet that this side sends in MQTT 5.0";
}

// Section 3.3: PUBLISH.
refused! {
    mqtt5_3_3_1_2_dup_with_qos_0: V5 Client p(0x38, &[&s("t"), &[0]])
        => MALFORMED_PACKET "PUBLISH: DUP flag: must not be set with QoS 0";
    mqtt5_3_3_1_4_qos_3: V5 Client p(0x36, &[&s("t"), &[0, 1, 0]])
        => MALFORMED_PACKET "PUBLISH: QoS: 3 is not allowed here";
    mqtt5_3_3_2_1_no_topic_name: V5 Client [0x30, 1, 0]
        => MALFORMED_PACKET "PUBLISH: Topic Name: the packet ends before it does";
    mqtt5_3_3_2_2_wildcard_in_a_topic_name: V5 Client p(0x30, &[&s("a/+"), &[0]])
        => TOPIC_NAME_INVALID "PUBLISH: Topic Name: must not hold a wildcard ('+' or '#')";
    mqtt5_4_7_0_1_hash_in_a_topic_name: V5 Client p(0x30, &[&s("a#b"), &[0]])
        => TOPIC_NAME_INVALID "PUBLISH: Topic Name: must not hold a wildcard ('+' or '#')";
    mqtt5_4_7_3_1_empty_topic_name: V5 Client p(0x30, &[&s(""), &[0]])
        => PROTOCOL_ERROR "PUBLISH: Topic Name: given without Topic Alias";
    section_3_3_2_3_2_payload_format_2: V5 Client publish5(&[&[0x01, 2]])
        => PROTOCOL_ERROR "PUBLISH: Payload Format Indicator: 2 is not allowed here";
    section_3_3_2_3_2_payload_format_twice: V5 Client publish5(&[&[0x01, 1], &[0x01, 1]])
        => PROTOCOL_ERROR "PUBLISH: Payload Format Indicator: given twice";
    section_3_3_2_3_3_expiry_twice: V5 Client publish5(&[&[2, 0, 0, 0, 1], &[2, 0, 0, 0, 1]])
        => PROTOCOL_ERROR "PUBLISH: Message Expiry Interval: given twice";
    mqtt5_3_3_2_8_topic_alias_0: V5 Client publish5(&[&[0x23, 0, 0]])
        => TOPIC_ALIAS_INVALID "PUBLISH: Topic Alias: 0 is not allowed here";
    mqtt5_3_3_2_13_response_topic_not_utf8: V5 Client publish5(&[&[0x08], &s([0xFF])])
        => MALFORMED_PACKET "PUBLISH: Response Topic: not well-formed UTF-8 from byte 0 on";
    mqtt5_3_3_2_14_wildcard_in_a_response_topic: V5 Client publish5(&[&[0x08], &s("a/+")])
        => PROTOCOL_ERROR "PUBLISH: Response Topic: must not hold a wildcard ('+' or '#')";
    mqtt5_4_7_3_1_empty_response_topic: V5 Client publish5(&[&[0x08], &s("")])
        => PROTOCOL_ERROR "PUBLISH: Response Topic: must not be empty";
    section_3_3_2_3_6_correlation_data_twice: V5 Client publish5(&[&[9], &s("a"), &[9], &s("a")])
        => PROTOCOL_ERROR "PUBLISH: Correlation Data: given twice";
    mqtt5_3_3_2_19_content_type_not_utf8: V5 Client publish5(&[&[0x03], &s([0xF8])])
        => MALFORMED_PACKET "PUBLISH: Content Type: not well-formed UTF-8 from byte 0 on";
    mqtt5_3_3_4_6_subscription_identifier_of_a_client: V5 Client publish5(&[&[0x0B, 1]])
        => PROTOCOL_ERROR "PUBLISH: Subscription Identifier: not a property that this side sends";
    section_3_3_2_3_8_subscription_identifier_0: V5 Server publish5(&[&[0x0B, 0]])
        => PROTOCOL_ERROR "PUBLISH: Subscription Identifier: 0 is not allowed here";
}

// Sections 3.4 to 3.7: acknowledgements.
refused! {
    mqtt5_3_4_2_1_puback_reason: V5 Client [0x40, 3, 0, 1, 0x92]
        => PROTOCOL_ERROR "PUBACK: Reason Code: 146 is not allowed here";
    mqtt5_3_5_2_1_pubrec_reason: V5 Client [0x50, 3, 0, 1, 0x01]
        => PROTOCOL_ERROR "PUBREC: Reason Code: 1 is not allowed here";
    mqtt5_3_6_1_1_pubrel_flags: V5 Client [0x60, 2, 0, 1]
        => MALFORMED_PACKET
        "PUBREL: fixed header flags: reserved bits are 0b00000000, and must be 0b00000010";
    mqtt5_3_6_2_1_pubrel_reason: V5 Client [0x62, 3, 0, 1, 0x10]
        => PROTOCOL_ERROR "PUBREL: Reason Code: 16 is not allowed here";
    mqtt5_3_7_2_1_pubcomp_reason: V5 Client [0x70, 3, 0, 1, 0x80]
        => PROTOCOL_ERROR "PUBCOMP: Reason Code: 128 is not allowed here";
    section_3_4_2_2_reason_string_twice: V5 Client
        p(0x40, &[&[0, 1, 0x80], &props(&[&[0x1F], &s("a"), &[0x1F], &s("b")])])
        => PROTOCOL_ERROR "PUBACK: Reason String: given twice";
    section_3_4_2_trailing_bytes: V5 Client [0x40, 5, 0, 1, 0, 0, 9]
        => MALFORMED_PACKET "PUBACK: end: 1 bytes too many";
    section_3_4_2_cut_packet_identifier: V5 Client [0x40, 1, 0]
        => MALFORMED_PACKET "PUBACK: Packet Identifier: the packet ends before it does";
}

// Sections 3.8 to 3.11: subscriptions.
refused! {
    mqtt5_3_8_1_1_subscribe_flags: V5 Client p(0x80, &[&[0, 1, 0], &s("a"), &[0]])
        => MALFORMED_PACKET
        "SUBSCRIBE: fixed header flags: reserved bits are 0b00000000, and must be 0b00000010";
    mqtt5_3_8_3_1_filter_not_utf8: V5 Client p(0x82, &[&[0, 1, 0], &s([0xFF]), &[0]])
        => MALFORMED_PACKET "SUBSCRIBE: Topic Filter: not well-formed UTF-8 from byte 0 on";
    mqtt5_3_8_3_2_empty_subscribe: V5 Client p(0x82, &[&[0, 1, 0]])
        => PROTOCOL_ERROR "SUBSCRIBE: payload: must not be empty";
    mqtt5_3_8_3_2_filter_without_options: V5 Client p(0x82, &[&[0, 1, 0], &s("a")])
        => MALFORMED_PACKET "SUBSCRIBE: Subscription Options: the packet ends before it does";
    mqtt5_3_8_3_4_no_local_of_a_shared_subscription: V5 Client
        p(0x82, &[&[0, 1, 0], &s("$share/g/a"), &[0x04]])
        => PROTOCOL_ERROR "SUBSCRIBE: No Local: must not be set for a shared subscription";
    mqtt5_3_8_3_5_reserved_options: V5 Client p(0x82, &[&[0, 1, 0], &s("a"), &[0x40]])
        => MALFORMED_PACKET
        "SUBSCRIBE: Subscription Options: reserved bits are 0b01000000, and must be 0b00000000";
    section_3_8_3_1_maximum_qos_3: V5 Client p(0x82, &[&[0, 1, 0], &s("a"), &[0x03]])
        => PROTOCOL_ERROR "SUBSCRIBE: Maximum QoS: 3 is not allowed here";
    section_3_8_3_1_retain_handling_3: V5 Client p(0x82, &[&[0, 1, 0], &s("a"), &[0x30]])
        => PROTOCOL_ERROR "SUBSCRIBE: Retain Handling: 3 is not allowed here";
    section_3_8_2_1_2_subscription_identifier_0: V5 Client
        p(0x82, &[&[0, 1, 2, 0x0B, 0], &s("a"), &[0]])
        => PROTOCOL_ERROR "SUBSCRIBE: Subscription Identifier: 0 is not allowed here";
    section_3_8_2_1_2_subscription_identifier_twice: V5 Client
        p(0x82, &[&[0, 1, 4, 0x0B, 1, 0x0B, 2], &s("a"), &[0]])
        => PROTOCOL_ERROR "SUBSCRIBE: Subscription Identifier: given twice";
    mqtt5_4_7_1_1_misplaced_multi_level_wildcard: V5 Client
        p(0x82, &[&[0, 1, 0], &s("a/#/b"), &[0]])
        => TOPIC_FILTER_INVALID
        "SUBSCRIBE: Topic Filter: '#' stands alone in the last level only, and '+' alone in its level";
    mqtt5_4_7_1_2_misplaced_single_level_wildcard: V5 Client
        p(0x82, &[&[0, 1, 0], &s("a+"), &[0]])
        => TOPIC_FILTER_INVALID
        "SUBSCRIBE: Topic Filter: '#' stands alone in the last level only, and '+' alone in its level";
    mqtt5_4_7_3_1_empty_filter: V5 Client p(0x82, &[&[0, 1, 0], &s(""), &[0]])
        => TOPIC_FILTER_INVALID "SUBSCRIBE: Topic Filter: must not be empty";
    mqtt5_4_8_2_1_share_without_a_name: V5 Client
        p(0x82, &[&[0, 1, 0], &s("$share//a"), &[0]])
        => TOPIC_FILTER_INVALID
        "SUBSCRIBE: Topic Filter: '$share/' is followed by a name without wildcards, '/', and a topic filter";
    mqtt5_4_8_2_2_share_without_a_filter: V5 Client p(0x82, &[&[0, 1, 0], &s("$share/g"), &[0]])
        => TOPIC_FILTER_INVALID
        "SUBSCRIBE: Topic Filter: '$share/' is followed by a name without wildcards, '/', and a topic filter";
    mqtt5_3_9_3_2_suback_reason: V5 Server [0x90, 4, 0, 1, 0, 0x11]
        => PROTOCOL_ERROR "SUBACK: Reason Codes: 17 is not allowed here";
    mqtt5_3_8_4_6_suback_without_reasons: V5 Server [0x90, 3, 0, 1, 0]
        => PROTOCOL_ERROR "SUBACK: Reason Codes: must not be empty";
    mqtt5_3_10_1_1_unsubscribe_flags: V5 Client p(0xA0, &[&[0, 1, 0], &s("a")])
        => MALFORMED_PACKET
        "UNSUBSCRIBE: fixed header flags: reserved bits are 0b00000000, and must be 0b00000010";
    mqtt5_3_10_3_1_filter_not_utf8: V5 Client p(0xA2, &[&[0, 1, 0], &s([0xFF])])
        => MALFORMED_PACKET "UNSUBSCRIBE: Topic Filter: not well-formed UTF-8 from byte 0 on";
    mqtt5_3_10_3_2_empty_unsubscribe: V5 Client p(0xA2, &[&[0, 1, 0]])
        => PROTOCOL_ERROR "UNSUBSCRIBE: payload: must not be empty";
    mqtt5_3_11_3_2_unsuback_reason: V5 Server [0xB0, 4, 0, 1, 0, 0x01]
        => PROTOCOL_ERROR "UNSUBACK: Reason Codes: 1 is not allowed here";
}

// Sections 3.12 to 3.15: the rest.
refused! {
    section_3_12_1_pingreq_with_a_body: V5 Client [0xC0, 1, 0]
        => MALFORMED_PACKET "PINGREQ: end: 1 bytes too many";
    section_3_13_a_client_sends_no_pingresp: V5 Client [0xD0, 0]
        => PROTOCOL_ERROR "PINGRESP: packet type: not a packet that this side sends in MQTT 5.0";
    mqtt5_3_14_1_1_disconnect_flags: V5 Client [0xE1, 0]
        => MALFORMED_PACKET
        "DISCONNECT: fixed header flags: reserved bits are 0b00000001, and must be 0b00000000";
    mqtt5_3_14_2_1_disconnect_reason: V5 Client [0xE0, 1, 0x8B]
        => PROTOCOL_ERROR "DISCONNECT: Reason Code: 139 is not allowed here";
    mqtt5_3_14_2_1_disconnect_reason_of_a_client: V5 Server [0xE0, 1, 0x04]
        => PROTOCOL_ERROR "DISCONNECT: Reason Code: 4 is not allowed here";
    mqtt5_3_14_2_2_session_expiry_of_a_server: V5 Server [0xE0, 7, 0x8B, 5, 0x11, 0, 0, 0, 1]
        => PROTOCOL_ERROR
        "DISCONNECT: Session Expiry Interval: not a property that this side sends";
    mqtt5_3_15_1_1_auth_flags: V5 Client p(0xF1, &[&[0x18], &props(&[&[0x15], &s("m")])])
        => MALFORMED_PACKET
        "AUTH: fixed header flags: reserved bits are 0b00000001, and must be 0b00000000";
    mqtt5_3_15_2_1_auth_reason: V5 Client p(0xF0, &[&[0x00], &props(&[&[0x15], &s("m")])])
        => PROTOCOL_ERROR "AUTH: Reason Code: 0 is not allowed here";
    mqtt5_3_15_2_1_auth_without_reason_of_a_client: V5 Client [0xF0, 0]
        => PROTOCOL_ERROR "AUTH: Reason Code: 0 is not allowed here";
    section_3_15_2_2_2_auth_without_method: V5 Client [0xF0, 2, 0x18, 0]
        => PROTOCOL_ERROR "AUTH: Authentication Method: must not be empty";
}
