//! A generated organisation with customers, the same for the same seed except for the times.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::organization::{Organization, merge};

/// What a conversation is about, from the first message to the note an agent leaves. `#` is replaced by a number.
struct ConversationTemplate {
    topic: usize,
    subject: &'static str,
    opening: &'static str,
    answer: &'static str,
    reply: &'static str,
    closing: &'static str,
    note: &'static str,
}

const TOPICS: [&str; 8] =
    ["Delivery", "Refund", "Sizing", "Login", "Damaged item", "Subscription", "Billing", "Praise"];
const INBOXES: [&str; 4] = ["General", "Billing", "Returns", "VIP"];
const AGENTS: [&str; 5] = ["Noor Haddad", "Mateo Lind", "Priya Raman", "Jonas Weber", "Aiko Tan"];
const FIRST_NAMES: [&str; 8] =
    ["Ingrid", "Tomas", "Leila", "Samuel", "Marta", "Kofi", "Hana", "Élodie"];
const LAST_NAMES: [&str; 8] =
    ["Novak", "Brandt", "Okafor", "Lindqvist", "Moreau", "Castillo", "Sato", "O’Neill"];

const TEMPLATES: [ConversationTemplate; 8] = [
    ConversationTemplate {
        topic: 0,
        subject: "Where is order #?",
        opening: "My order # was due on Tuesday and the tracking page has not moved for four days. Where is it?",
        answer: "I am sorry about the wait. The carrier lost a pallet last week and your parcel was on it, so I have sent a new one by express.",
        reply: "Thank you! Will I have to sign for it? I am at work until six.",
        closing: "No signature is needed, it will be left with your neighbour. You will get the tracking link in an hour.",
        note: "Parcel lost by the carrier, replacement for # sent by express at our cost.",
    },
    ConversationTemplate {
        topic: 1,
        subject: "Refund not received",
        opening: "I sent the jacket from order # back three weeks ago and still have no refund.",
        answer: "The jacket reached us on the 4th, but the refund stopped at a card that has expired. May I pay it out as store credit, or do you have a new card?",
        reply: "A new card please. I have added it to my account just now.",
        closing: "Found it. The refund is on its way and takes two or three working days.",
        note: "Refund for # failed because of an expired card; sent again to the new one.",
    },
    ConversationTemplate {
        topic: 2,
        subject: "Boots too small",
        opening: "Your size chart says 40, but the boots in order # fit like a 38. Can I swap them?",
        answer: "Of course. That model runs small, and we should say so on the page. Shall I send a 41?",
        reply: "Yes, a 41. Do I pay for sending these ones back?",
        closing: "No, the label in the box is free for you. The 41 leaves today.",
        note: "Third complaint this week about the sizing of this model. Told the product team.",
    },
    ConversationTemplate {
        topic: 3,
        subject: "Cannot log in",
        opening: "The app logs me out each time I open it, and the code you send by text arrives twenty minutes late.",
        answer: "That sounds tiresome. We had a delay with text messages this morning. Could you try the code by e-mail?",
        reply: "That worked, I am in. But please fix the text messages, I nearly missed the sale.",
        closing: "I am glad you are in. The text messages are being looked at, and I added 10 % to your cart for the trouble.",
        note: "Late login codes again, ticket # with the provider. Customer got 10 %.",
    },
    ConversationTemplate {
        topic: 4,
        subject: "Lamp arrived broken",
        opening: "The lamp from order # arrived in three pieces. The box had no padding at all 😡",
        answer: "Oh no. Could you send me a photo of the box? I will have a new lamp packed by hand in the meantime.",
        reply: "The photo is attached. I do not need the old one any more, right?",
        closing: "Right, please recycle it. The new one ships tomorrow with twice the padding.",
        note: "Packaging fault, no padding. Photo sent on to the warehouse with reference #.",
    },
    ConversationTemplate {
        topic: 5,
        subject: "Please cancel my subscription",
        opening: "I would like to cancel the coffee subscription. It comes faster than I can drink it.",
        answer: "I can cancel it, or have it come every six weeks instead of every two. What would suit you better?",
        reply: "Every six weeks sounds perfect, I did not know that was possible. It is hard to find on your site.",
        closing: "Done. The next bag leaves on the 18th.",
        note: "Kept the customer by moving to six weeks. The setting is hard to find, as others have said.",
    },
    ConversationTemplate {
        topic: 6,
        subject: "Charged twice",
        opening: "I was charged twice for order #. My bank shows two payments of 84.50.",
        answer: "I see one payment and one hold. The hold falls off by itself within five days, no money has left for it.",
        reply: "I see. It would help if the receipt said so.",
        closing: "Good point, I will pass that on. Write to us again if it is still there on Friday.",
        note: "Customer took a hold for a second charge (#). The receipt should explain it.",
    },
    ConversationTemplate {
        topic: 7,
        subject: "Thank you!",
        opening: "Just wanted to say that Noor was wonderful yesterday. The cake tin arrived in time for the birthday 🎂",
        answer: "That made our day, thank you for writing! I have passed it on to Noor.",
        reply: "Please do. I will be back for the muffin tray.",
        closing: "We shall keep one aside for you.",
        note: "Praise for Noor, order #. Share in the team meeting.",
    },
];

const STATUSES: [&str; 3] = ["OPEN", "WAITING", "CLOSED"];

/// The channels a conversation takes place in, in turn.
const CHANNELS: [&str; 8] = [
    "EMAIL",
    "CHAT_MESSAGE",
    "SMS",
    "PHONE_CALL",
    "WHATSAPP",
    "INSTAGRAM_DIRECT",
    "FACEBOOK_MESSAGE",
    "VOICEMAIL",
];

/// Other items of a timeline; each conversation gets the next two.
const OTHER_ITEM_TYPES: [&str; 19] = [
    "CONVERSATION_NOTE",
    "CUSTOMER_ACTIVITY",
    "TEXT",
    "FILES",
    "TEXT_WITH_FILES",
    "FILES_WITH_TEXT",
    "QUICK_REPLY_REQUEST",
    "QUICK_REPLY_RESPONSE",
    "TWITTER",
    "VOICE_AI_MESSAGE",
    "TASK",
    "PHONE_CALL_SUMMARY",
    "VOICEMAIL_BARE",
    "REDACTED_EMAIL",
    "PAYMENT_REQUEST",
    "NO_INITIATOR",
    "BOT_MESSAGE",
    "EXTERNAL_EMAIL",
    "HOLOGRAM_MESSAGE",
];

impl Organization {
    /// The agents, inboxes and topics of every organisation.
    pub(super) fn add_agents_inboxes_and_topics(&mut self) {
        for name in AGENTS {
            let first = name.split(' ').next().unwrap_or_default().to_lowercase();
            let agent = json!({"id": self.new_id(), "name": name, "emailAddress": format!("{first}@example.org")});
            self.agents.push(agent);
        }
        for name in INBOXES {
            let inbox = json!({"id": self.new_id(), "name": name, "disabled": name == "VIP"});
            self.inboxes.push(inbox);
        }
        for name in TOPICS {
            let topic = json!({"id": self.new_id(), "name": name, "disabled": name == "Praise"});
            self.topics.push(topic);
        }
        // A topic under another one.
        let parent = self.topics[0]["id"].clone();
        let child = json!({"id": self.new_id(), "name": "Lost parcel", "disabled": false, "parentId": parent});
        self.topics.push(child);
    }

    /// Generates conversations of the last ten days; 10 or more have every type of item, and every sixth customer
    /// was merged into another.
    pub fn generate_conversations(&mut self, count: usize) {
        for number in 0..count {
            let customer = self.generate_customer(number);
            let id = self.new_id();
            self.generate_conversation(number, &id, &customer);
            if number % 6 == 5 {
                // Every other merge is itself merged on: a chain.
                let survivor = self.generate_customer(number);
                self.merge_customer(&customer, &survivor);
                if number % 12 == 11 {
                    let last = self.generate_customer(number);
                    self.merge_customer(&survivor, &last);
                }
            }
        }
    }

    fn generate_customer(&mut self, number: usize) -> String {
        let id = self.new_id();
        let first = FIRST_NAMES[self.rng.usize(..FIRST_NAMES.len())];
        let last = LAST_NAMES[self.rng.usize(..LAST_NAMES.len())];
        let mail = format!("customer.{}@example.com", self.rng.u32(1000..10_000));
        let phone = format!("+1555555{:04}", self.rng.u32(..10_000));
        let bare = number % 7 == 3;
        let shop = format!("shop-{}", self.rng.u32(10_000..99_999));
        let phones = json!([{"original": phone, "normalized": phone, "type": ""}]);
        let profile = json!({
            "name": if bare { Value::Null } else { format!("{first} {last}").into() },
            "emails": [{"original": mail.to_uppercase(), "normalized": mail, "primary": true}],
            "phones": if bare { json!([]) } else { phones },
            "externalCustomerId": if bare { Value::Null } else { shop.clone().into() },
            "externalCustomerIds": if bare { Value::Null } else { json!({"storefront": shop}) },
            "customAttributes": {"orders": self.rng.u8(1..30), "newsletter": self.rng.bool()},
        });
        self.add_customer(&id, profile);
        id
    }

    fn generate_conversation(&mut self, number: usize, id: &str, customer: &str) {
        // Shifted by one with each round, so that every template comes in every channel.
        let template = &TEMPLATES[(number + number / CHANNELS.len()) % TEMPLATES.len()];
        let order = self.rng.u32(10_000..99_999).to_string();
        let channel = CHANNELS[number % CHANNELS.len()];
        let agent = self.agents[number % self.agents.len()]["id"].clone();
        let topic = self.topics[template.topic]["id"].clone();
        let mut topics: Vec<_> = self.topics.iter().collect();
        topics.retain(|it| it["id"] == topic || it["parentId"] == topic);
        let topics: Vec<_> = topics.into_iter().map(|it| it["id"].clone()).collect();
        let by_customer = json!({"id": customer, "type": "CUSTOMER"});
        let by_agent = json!({"id": agent, "type": "AGENT"});
        let mut clock = Timestamp::now() - SignedDuration::from_mins(self.rng.i64(120..14_400));

        self.add_conversation(id, customer, []);
        let closed = number % 3 == 2;
        let created = self.stamp(clock);
        self.change_conversation(
            id,
            json!({
                "createdAt": created,
                "inboxId": self.inboxes[number % self.inboxes.len()]["id"],
                "agentId": if number % 4 == 3 { Value::Null } else { agent.clone() },
                "topicIds": if number % 5 == 4 { Value::Null } else { json!(topics) },
                "status": STATUSES[number % STATUSES.len()],
                "customAttributes": [{"id": "order", "value": order}, {"id": "order", "value": "gift"}],
            }),
        );
        let mut add = |organization: &mut Self, initiator: &Value, content: Value| {
            clock += SignedDuration::from_millis(organization.rng.i64(20_000..900_000));
            let timestamp = organization.stamp(clock);
            let responder = if *initiator == by_customer { by_agent.clone() } else { Value::Null };
            let item = json!({"timestamp": timestamp, "initiator": initiator, "responder": responder, "content": content});
            (organization.add_item(id, item), timestamp)
        };

        let spoken = matches!(channel, "PHONE_CALL" | "VOICEMAIL");
        let lines = [template.opening, template.answer, template.reply, template.closing]
            .map(|line| line.replace('#', &order));
        if spoken {
            let (call, _) = add(self, &by_customer, message(channel, false, template, "", ""));
            let spoken_lines = if channel == "VOICEMAIL" { 1 } else { lines.len() };
            self.add_transcript(&call, &lines.each_ref().map(String::as_str)[..spoken_lines]);
        } else {
            for (turn, line) in lines.iter().enumerate() {
                let by = [&by_customer, &by_agent][turn % 2];
                add(self, by, message(channel, turn % 2 == 1, template, line, &order));
            }
        }
        add(self, &by_agent, json!({"type": "TOPIC_CHANGE", "addedTopicIds": [topic]}));
        for next in 0..2 {
            let item_type = OTHER_ITEM_TYPES[(number * 2 + next) % OTHER_ITEM_TYPES.len()];
            let by = match item_type {
                "CONVERSATION_NOTE" | "TASK" | "QUICK_REPLY_REQUEST" => by_agent.clone(),
                "BOT_MESSAGE" | "VOICE_AI_MESSAGE" => {
                    json!({"id": "SIDEKICK_V2", "type": "SYSTEM"})
                }
                "EXTERNAL_EMAIL" => json!({"id": "carrier@example.org", "type": "EXTERNAL"}),
                "CUSTOMER_ACTIVITY" | "PAYMENT_REQUEST" => {
                    json!({"id": self.agents[0]["id"], "type": "API"})
                }
                "NO_INITIATOR" => Value::Null,
                _ => by_customer.clone(),
            };
            add(self, &by, self::other_item(item_type, template, &order));
        }
        if closed {
            let (_, at) = add(
                self,
                &by_agent,
                json!({"type": "CONVERSATION_STATUS_CHANGE", "status": "CLOSED"}),
            );
            self.change_conversation(id, json!({"closedAt": at}));
        }
    }
}

/// A message in a channel, in Gladly's format for that channel.
fn message(
    channel: &str,
    outbound: bool,
    template: &ConversationTemplate,
    line: &str,
    order: &str,
) -> Value {
    let directed = |customer: &'static str, company: &'static str| {
        if outbound { (company, customer) } else { (customer, company) }
    };
    let (from_mail, to_mail) = directed("customer@example.com", "help@example.org");
    let (from_phone, to_phone) = directed("+15555550111", "+15555550100");
    let mut content = json!({"type": channel, "content": line});
    let more = match channel {
        "EMAIL" => json!({
            "from": from_mail, "to": [to_mail], "cc": [], "subject": template.subject.replace('#', order),
        }),
        "SMS" => json!({"from": from_phone, "to": to_phone}),
        "CHAT_MESSAGE" => json!({"sessionId": "chat-1", "messageType": "TEXT"}),
        "FACEBOOK_MESSAGE" => json!({"pageId": "10001", "userId": "20002"}),
        "PHONE_CALL" => json!({
            "content": null, "from": "+15555550111", "to": "+15555550100", "startedAt": "2025-02-03T15:04:05.123456Z",
            "answeredAt": "2025-02-03T15:04:11Z", "completedAt": "2025-02-03T15:08:40.5Z", "recordingStatus": "AVAILABLE",
            "recordingUrl": "/api/v1/conversation-items/sample/media/recording", "recordingDuration": "269",
        }),
        "VOICEMAIL" => json!({
            "content": null, "startedAt": "2025-02-03T15:04:05Z", "recordingStatus": "AVAILABLE", "recordingDuration": 21,
            "recordingUrl": "/api/v1/conversation-items/sample/media/recording",
        }),
        _ => json!({}),
    };
    merge(&mut content, more);
    content
}

/// An item between the messages.
fn other_item(kind: &str, template: &ConversationTemplate, order: &str) -> Value {
    let note = template.note.replace('#', order);
    match kind {
        "CONVERSATION_NOTE" => json!({"type": kind, "body": format!("<p>{note}</p>")}),
        "CUSTOMER_ACTIVITY" => json!({
            "type": kind, "activityType": "SURVEY", "title": "How did we do? 4 of 5",
            "body": "Friendly and quick, but I had to explain it <b>twice</b>.", "sourceName": "Survey",
            "link": {"url": "https://survey.example.com/4", "text": "Answers"}, "receivedAt": "2025-02-03T15:04:05.1Z",
        }),
        "TEXT" => custom_channel(
            kind,
            &json!({"text": "One more thing: is the gift wrap made of paper?"}),
        ),
        "TEXT_WITH_FILES" => custom_channel(
            "TEXT",
            &json!({"caption": "And this is the label.", "files": [{"id": "f-2", "filename": "label.jpg"}]}),
        ),
        "FILES_WITH_TEXT" => {
            custom_channel("FILES", &json!({"text": "Did the pictures come through?"}))
        }
        "FILES" => custom_channel(
            kind,
            &json!({"caption": "This is how it arrived.", "files": [{"id": "f-1", "filename": "box.jpg"}]}),
        ),
        "QUICK_REPLY_REQUEST" => json!({
            "type": "CHAT_MESSAGE", "sessionId": "chat-1", "messageType": kind, "content": "Did that solve it?",
            "messageData": {"options": [{"id": "yes", "label": "Yes"}, {"id": "no", "label": "Not yet"}]},
        }),
        "QUICK_REPLY_RESPONSE" => json!({
            "type": "CHAT_MESSAGE", "sessionId": "chat-1", "messageType": kind, "content": "Not yet",
            "messageData": {"selectedOptionId": "no", "requestMessageId": "m-1"},
        }),
        "TWITTER" => {
            json!({"type": kind, "content": "Still waiting for an answer from you, it has been a week."})
        }
        "VOICE_AI_MESSAGE" => json!({
            "type": kind, "companyNumber": "+15555550100", "customerNumber": "+15555550111", "status": "INTERRUPTED",
            "body": "I can help with that. Could you tell me your order number?",
        }),
        "TASK" => {
            json!({"type": kind, "body": "Call the carrier and ask for the proof of delivery.", "dueAt": "2025-02-05T09:00:00Z"})
        }
        "PHONE_CALL_SUMMARY" => json!({
            "type": "PHONE_CALL", "from": "+15555550111", "to": "+15555550100", "startedAt": "2025-02-03T16:00:00Z",
            "recordingStatus": "AVAILABLE", "recordingDuration": 95,
            "recordingSummary": {"status": "READY", "summary": "The customer asked for a call back on Friday.", "language": "en"},
        }),
        "VOICEMAIL_BARE" => {
            json!({"type": "VOICEMAIL", "recordingStatus": "DELETED", "recordingSummary": {"status": "REDACTED"}})
        }
        "REDACTED_EMAIL" => json!({"type": "EMAIL", "from": "", "to": [], "content": ""}),
        "PAYMENT_REQUEST" => {
            json!({"type": kind, "amount": "84.50", "currency": "USD", "status": {"value": "PAID"}})
        }
        "NO_INITIATOR" => {
            json!({"type": "SMS", "from": "+15555550111", "to": "+15555550100", "content": "STOP"})
        }
        "BOT_MESSAGE" => {
            json!({"type": "CHAT_MESSAGE", "sessionId": "chat-1", "content": "Hi! I am the shop's assistant. What is it about?"})
        }
        "EXTERNAL_EMAIL" => json!({
            "type": "EMAIL", "from": "carrier@example.org", "to": ["help@example.org"], "subject": "Your claim",
            "content": format!("We could not find parcel {order} and have opened a claim."),
        }),
        _ => {
            json!({"type": kind, "body": "A kind of message that did not exist when the relay was written."})
        }
    }
}

/// A message of a custom channel: either type comes with either of two contents, a text or files.
fn custom_channel(kind: &str, content: &Value) -> Value {
    json!({
        "type": kind, "customChannelId": "line", "companyAddress": "shop", "customerAddress": "guest-7", "sessionId": "s-2",
        "content": content, "status": {"value": "DELIVERED", "details": ""},
    })
}
